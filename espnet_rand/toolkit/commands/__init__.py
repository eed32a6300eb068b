"""Serves the commands of espnet_rand.bin: models of checkpoints, and their loss on data."""
