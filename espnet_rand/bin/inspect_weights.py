"""Say what a packed file holds: layers, bits, scales, bytes, and the ratio to float32."""

import argparse
from pathlib import Path

from espnet_rand.bin.command import run
from espnet_rand.bin.packed_file import say
from espnet_rand.packing import read_packed


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inspect_weights", description=__doc__)
    parser.add_argument("packed_file", type=Path)
    return parser


def inspect_weights(args: argparse.Namespace) -> None:
    """Print the table and the metadata."""
    packed = read_packed(args.packed_file)
    for line in (f"{name}: {value}" for name, value in packed.info.items()):
        print(line if line.isprintable() else ascii(line))  # the file may be from anybody
    say(packed, args.packed_file)


def main(cmd=None) -> None:
    run(inspect_weights, get_parser(), cmd)


if __name__ == "__main__":
    main()
