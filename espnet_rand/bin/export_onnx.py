"""Write a packed model for ONNX Runtime, with its integer codes."""

import argparse
from collections import Counter
from pathlib import Path

from espnet2.utils.types import str2bool

from espnet_rand.bin.command import run
from espnet_rand.errors import few
from espnet_rand.toolkit.commands import checkpoints
from espnet_rand.toolkit.exporting import models


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_onnx", description=__doc__)
    checkpoints.add_arguments(parser)
    parser.add_argument("--output", dest="output_dir", type=Path, required=True, help="a directory")
    parser.add_argument(
        "--longest", type=float, help="seconds of the longest recording: tables of positions are cut to it"
    )
    parser.add_argument(
        "--exact",
        type=str2bool,
        default=False,
        help="compute in float, with decoded weights: to compare with",
    )
    return parser


def export_onnx(args: argparse.Namespace) -> None:
    """Write model.onnx and tokens.txt; of a transducer, prediction.onnx and joint.onnx too."""
    model, trained, packed = checkpoints.load_packed(args)
    models.check(model)
    times = models.measure(model, trained, args.longest)
    about = models.describe(model, args.model_file)
    ways = models.export(model, packed, args.output_dir, times, about, args.exact)
    for way, count in Counter(ways.values()).most_common():
        print(f"{way}: {count} weights")
    left = [name for name in packed.weights if name not in ways]
    if left:
        print(f"left out, as not needed for {about['type']}: {few(left, 1)}")
    for path in sorted(args.output_dir.iterdir()):
        print(f"{path}: {path.stat().st_size:,} bytes")


def main(cmd=None) -> None:
    run(export_onnx, get_parser(), cmd)


if __name__ == "__main__":
    main()
