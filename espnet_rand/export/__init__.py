"""Packed codes in the files of other runtimes. Nothing here trains, and no ESPnet here."""
