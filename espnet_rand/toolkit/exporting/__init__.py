"""ESPnet's models as ONNX files: parts of them that trace, and the files that are made of these."""
