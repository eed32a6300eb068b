"""What the commands on packed files share."""

from pathlib import Path

from espnet_rand.packing import FORMAT_VERSION, OLD_FORMAT, PackedModel, report, write_packed


def say(packed: PackedModel, path: Path) -> None:
    """Print what a packed file holds, and what its size is made of; and whether it should be packed again."""
    held = report(packed)
    size, tensors = path.stat().st_size, held.totals["bytes_after"]
    print(f"{held}\n{path}: {size:,} bytes: these {tensors:,}, and {size - tensors:,} that describe them")
    if packed.version < FORMAT_VERSION:
        print(f"{path}: {OLD_FORMAT}")


def save(packed: PackedModel, path: Path) -> None:
    """Write a packed file, and say what it holds."""
    write_packed(path, packed)
    say(packed, path)
