"""Wraps what ESPnet calls in training and in decoding, and what ESPnet3 calls."""
