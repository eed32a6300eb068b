"""Command lines, thin, named and shaped like those of espnet2.bin."""
