"""Writes packed files, and says what they hold."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Callable, Iterable, Mapping

from espnet_rand.export.codes import Exported, ExportError
from espnet_rand.packing import FORMAT_VERSION, OLD_FORMAT, PackedModel, is_packed, read_packed, report, write_packed


def say(packed: PackedModel, path: Path) -> None:
    """Print what a packed file holds, what makes up its size, and whether it should be packed again."""
    held = report(packed)
    size, tensors = path.stat().st_size, held.totals["bytes_after"]
    print(f"{held}\n{path}: {size:,} bytes: these {tensors:,}, and {size - tensors:,} that describe them")
    if packed.version < FORMAT_VERSION:
        print(f"{path}: {OLD_FORMAT}")


def save(packed: PackedModel, path: Path) -> None:
    """Write a packed file, and say what it holds."""
    write_packed(path, packed)
    say(packed, path)


def add_export_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """The packed file, and `--output`, which `output` describes."""
    parser.add_argument("packed_file", type=Path)
    parser.add_argument("--output", type=Path, required=True, help=output)


def export(write_for: Callable[[PackedModel, Path], Exported], args: argparse.Namespace) -> None:
    """Write a packed file for another runtime, and say what the runtime's file or directory holds.

    Raises:
        ExportError: `args.packed_file` is not a packed file, or would be overwritten
    """
    if args.output.resolve() == args.packed_file.resolve():
        raise ExportError(f"--output: {args.output} is the packed file itself. Fix: another name")
    if not is_packed(args.packed_file):
        raise ExportError(
            f"{args.packed_file} is not a packed file. Fix: espnet_rand.bin.pack_weights packs a checkpoint that was "
            "trained with a quantizer, espnet_rand.bin.quantize_weights any other"
        )
    exported = write_for(read_packed(args.packed_file), args.output)
    files = [args.output] if args.output.is_file() else sorted(args.output.iterdir())
    print(f"{args.output}: {sum(file.stat().st_size for file in files):,} bytes\n{exported}")


def say_ways(ways: Mapping[str, str], left_out: str, paths: Iterable[Path]) -> None:
    """Print how a runtime computes with the packed weights, and the files that were written for it.

    Args:
        ways: from names of weights to how they are computed with
        left_out: a line about weights that are in no file, or ""
    """
    for way, count in Counter(ways.values()).most_common():
        print(f"{way}: {count} weights")
    if left_out:
        print(left_out)
    for path in sorted(paths):
        print(f"{path}: {path.stat().st_size:,} bytes")
