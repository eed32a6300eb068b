"""What ESPnet calls, once it is registered: in training, in decoding, in ESPnet3."""
