"""The toolkit side: the only place that imports espnet2. Registers; edits and copies nothing."""
