"""Integer codes on disk, and integer compute at inference. No ESPnet here."""

from espnet_rand.packing.file import (
    FORMAT_VERSION,
    OLD_FORMAT,
    PackedFileError,
    PackedModel,
    PackedWeight,
    is_packed,
    read,
    write,
)
from espnet_rand.packing.model import load_into, pack_model, report, weights_on_meta

__all__ = [
    "FORMAT_VERSION",
    "OLD_FORMAT",
    "PackedFileError",
    "PackedModel",
    "PackedWeight",
    "is_packed",
    "load_into",
    "pack_model",
    "read",
    "report",
    "weights_on_meta",
    "write",
]
