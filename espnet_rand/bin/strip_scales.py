"""Take the learned scales out of a checkpoint: stock ESPnet, started with plain python, can then train from it."""

import argparse
from pathlib import Path

from espnet_rand.atomic import write_tensors
from espnet_rand.bin.command import run
from espnet_rand.layers import split_scales
from espnet_rand.packing import is_packed
from espnet_rand.toolkit.pretrained.fitting import PretrainedError
from espnet_rand.toolkit.pretrained.sources import read_weights


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="strip_scales", description=__doc__)
    parser.add_argument("--model_file", type=Path, required=True, help="e.g. valid.acc.ave.pth")
    parser.add_argument("--output", type=Path, required=True, help="a .pth of the float weights alone")
    return parser


def strip_scales(args: argparse.Namespace) -> None:
    """Write the checkpoint's weights without their learned scales."""
    if not args.model_file.is_file():
        raise PretrainedError(f"--model_file: no such file: {args.model_file}")
    if is_packed(args.model_file):
        raise PretrainedError(
            f"{args.model_file} is packed. Fix: python -m espnet_rand.bin.unpack_weights makes a checkpoint of it"
        )
    state = read_weights(args.model_file)
    scales = split_scales(state)
    if not scales:
        raise PretrainedError(f"{args.model_file} has no learned scales: stock ESPnet takes it as it is")
    write_tensors(args.output, {name: tensor for name, tensor in state.items() if name not in scales})
    print(f"{args.output}: {len(state) - len(scales)} tensors; {len(scales)} learned scales are left out")


def main(cmd=None) -> None:
    run(strip_scales, get_parser(), cmd)


if __name__ == "__main__":
    main()
