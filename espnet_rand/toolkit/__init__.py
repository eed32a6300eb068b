"""The toolkit side: the only place that imports espnet2. Registers; edits and copies nothing.

The modules here are what users give, which all below read. Arrows: they <- pretrained <- hooks <- commands, and
they <- recognition.
"""
