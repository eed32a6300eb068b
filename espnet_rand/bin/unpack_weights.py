"""Make a float checkpoint of a packed file: its weights lie on the integer grid, and stock ESPnet decodes it."""

import argparse
from pathlib import Path

from espnet_rand.atomic import write_tensors
from espnet_rand.bin.command import run
from espnet_rand.packing import read_packed


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unpack_weights", description=__doc__)
    parser.add_argument("--packed_file", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a .pth for --asr_model_file, --init_param ...")
    return parser


def unpack_weights(args: argparse.Namespace) -> None:
    """Write the state_dict with decoded weights."""
    state = read_packed(args.packed_file).state_dict()
    write_tensors(args.output, state)
    print(f"{args.output}: {len(state)} tensors, {args.output.stat().st_size:,} bytes")


def main(cmd=None) -> None:
    run(unpack_weights, get_parser(), cmd)


if __name__ == "__main__":
    main()
