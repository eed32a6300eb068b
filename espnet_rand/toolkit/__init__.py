"""The toolkit side: the only place that imports espnet2. It registers; it edits and copies nothing.

The modules here read what users give; all folders below use them. Arrows: modules <- pretrained <- hooks <- commands,
and modules <- recognition.
"""

from espnet_rand.errors import no_espnet

try:  # first: below espnet-rand this import registers, which imports the modules here
    import espnet2.tasks.abs_task  # noqa: F401
except ModuleNotFoundError as e:
    if e.name != "espnet2":
        raise
    raise no_espnet() from None
