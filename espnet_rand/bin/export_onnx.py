"""Write a packed model for ONNX Runtime, with its integer codes."""

import argparse
from pathlib import Path

from espnet_rand.bin import packed_file
from espnet_rand.bin.command import run
from espnet_rand.errors import few
from espnet_rand.export.codes import ExportError
from espnet_rand.export.packages import installed
from espnet_rand.toolkit.commands import checkpoints


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_onnx", description=__doc__)
    checkpoints.add_packed_arguments(parser)
    parser.add_argument(
        "--output",
        dest="output_dir",
        type=Path,
        required=True,
        help="a directory; an earlier export is replaced",
    )
    parser.add_argument(
        "--longest", type=float, help="seconds of the longest recording: tables of positions are cut to it"
    )
    parser.add_argument(
        "--exact",
        choices=("true", "false"),
        default="false",
        help="compute in float, with decoded weights: to compare with",
    )
    return parser


def export_onnx(args: argparse.Namespace) -> None:
    """Write the files of a model (see `espnet_rand.toolkit.exporting.models.graphs`), and say what they are."""
    models = installed("espnet_rand.toolkit.exporting.models")
    model, trained, packed = checkpoints.load_packed(args)
    models.check(model)
    times = models.measure(model, trained, args.longest)
    about = models.describe(model, args.model_file)
    files = {graph.file for graph in models.graphs(model, times)}
    if others := sorted({path.name for path in args.output_dir.glob("*.onnx")} - files):
        raise ExportError(
            f"--output: {args.output_dir} has files of another model: {few(others, 3)}. Fix: a new directory"
        )
    ways = models.export(model, packed, args.output_dir, times, about, args.exact == "true")
    unused = [name for name in packed.weights if name not in ways]
    left_out = f"left out, as not needed for {about['type']}: {few(unused, 1)}" if unused else ""
    packed_file.say_ways(ways, left_out, (args.output_dir / file for file in {*files, "tokens.txt"}))
    if not times.bands:  # it takes speech
        print(f"python -m espnet_rand.export.examples.decode_onnx --model {args.output_dir} FILE.wav")


def main(cmd=None) -> None:
    run(export_onnx, get_parser(), cmd)


if __name__ == "__main__":
    main()
