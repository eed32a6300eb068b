"""Writes packed files, and says what they hold."""

from pathlib import Path

from espnet_rand.packing import FORMAT_VERSION, OLD_FORMAT, PackedModel, report, write


def say(packed: PackedModel, path: Path) -> None:
    """Print what a packed file holds, what makes up its size, and whether it should be packed again."""
    held = report(packed)
    size, tensors = path.stat().st_size, held.totals["bytes_after"]
    print(f"{held}\n{path}: {size:,} bytes: these {tensors:,}, and {size - tensors:,} that describe them")
    if packed.version < FORMAT_VERSION:
        print(f"{path}: {OLD_FORMAT}")


def save(packed: PackedModel, path: Path) -> None:
    """Write a packed file, and say what it holds."""
    write(path, packed)
    say(packed, path)
