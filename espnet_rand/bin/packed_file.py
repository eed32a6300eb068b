"""What the commands on packed files share."""

from pathlib import Path

from espnet_rand.packing import PackedModel, report, write


def say(packed: PackedModel, path: Path) -> None:
    """Print what a packed file holds, and its size."""
    print(f"{report(packed)}\n{path}: {path.stat().st_size:,} bytes")


def save(packed: PackedModel, path: Path) -> None:
    """Write a packed file, and say what it holds."""
    write(path, packed)
    say(packed, path)
