"""The toolkit side: the only place that imports espnet2. Registers; edits and copies nothing.

The modules here are what users give, which all below read. Arrows: they <- pretrained <- hooks <- commands, and
they <- recognition.
"""

from espnet_rand.errors import no_espnet

try:  # first: below espnet-rand its import registers, and that imports what is here
    import espnet2.tasks.abs_task  # noqa: F401
except ModuleNotFoundError as e:
    if e.name != "espnet2":
        raise
    raise no_espnet() from None
