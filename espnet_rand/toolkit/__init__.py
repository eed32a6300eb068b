"""The toolkit side: the only place that imports espnet2. Registers; edits and copies nothing.

The modules here are what users give, which all below read. Arrows: they <- pretrained <- hooks <- commands, and
they <- recognition.
"""

import espnet2.tasks.abs_task  # noqa: F401  (first: below espnet-rand its import registers, and that imports what is here)
