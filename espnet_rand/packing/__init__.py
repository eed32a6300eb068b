"""Integer codes on disk, and integer compute at inference. No ESPnet here."""

from espnet_rand.packing.file import (
    FORMAT_VERSION,
    OLD_FORMAT,
    PackedFileError,
    PackedModel,
    PackedWeight,
    is_packed,
    read_packed,
    write_packed,
)
from espnet_rand.packing.model import load_into, pack_model, report, weights_on_meta

# their names in version 0.1
read, write = read_packed, write_packed

__all__ = [
    "FORMAT_VERSION",
    "OLD_FORMAT",
    "PackedFileError",
    "PackedModel",
    "PackedWeight",
    "is_packed",
    "load_into",
    "pack_model",
    "read_packed",
    "report",
    "weights_on_meta",
    "write_packed",
]
