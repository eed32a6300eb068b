"""Write a packed model for sherpa-onnx, with its integer codes."""

import argparse
from pathlib import Path
from typing import Any, Dict, Tuple

from espnet_rand.bin import packed_file
from espnet_rand.bin.command import run
from espnet_rand.errors import few
from espnet_rand.export.codes import ExportError
from espnet_rand.export.packages import installed
from espnet_rand.toolkit.commands import checkpoints


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_sherpa_onnx", description=__doc__)
    checkpoints.add_packed_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument(
        "--longest",
        type=float,
        help="seconds of the longest recording: tables of positions are cut to it; not for Whisper",
    )
    parser.add_argument(
        "--decoding_window",
        type=int,
        default=640,
        help="of streaming: milliseconds that are computed together, in steps of 40 (default: 640)",
    )
    parser.add_argument(
        "--left_context",
        type=int,
        default=32,
        help="of streaming: frames of the encoder, of 40 ms, that are seen before (default: 32)",
    )
    return parser


def export_sherpa_onnx(args: argparse.Namespace) -> None:
    """Write the directory, and say what it holds and how sherpa-onnx loads it."""
    if args.output.exists():
        raise ExportError(f"{args.output} is there already. Fix: remove it, or name another directory")
    sherpa_whisper = installed("espnet_rand.toolkit.exporting.sherpa_whisper")
    packed = checkpoints.read_model_file(args)
    if sherpa_whisper.is_whisper(packed):
        if args.longest is not None:
            raise ExportError("--longest: Whisper hears 30 s. Fix: leave it out")
        ways, loader = sherpa_whisper.export(packed, args.output), sherpa_whisper.loader()
    else:
        ways, loader = _export(args)
    unused = [name for name in packed.weights if name not in ways]
    left_out = f"left out: {few(unused, 2)}, which the runtime has no use for" if unused else ""
    packed_file.say_ways(ways, left_out, args.output.iterdir())
    values = {
        key: str(args.output / value) if (args.output / str(value)).is_file() else value
        for key, value in loader.options.items()
    }
    print(f"sherpa_onnx.{loader.name}({', '.join(f'{key}={value!r}' for key, value in values.items())}){loader.remark}")


def _export(args: argparse.Namespace) -> Tuple[Dict[str, str], Any]:
    """Write a model that hears Kaldi's features; return how each weight is computed with, and what loads the files."""
    models, sherpa = (installed(f"espnet_rand.toolkit.exporting.{name}") for name in ("models", "sherpa"))
    chunks = sherpa.chunks(args.decoding_window, args.left_context)
    model, trained, packed = checkpoints.load_packed(args)
    sherpa.check(model, trained)
    times, about = models.measure(model, trained, args.longest), models.describe(model, args.model_file)
    loader = sherpa.loader(model, times)
    return sherpa.export(model, packed, args.output, times, about, trained.token_type, chunks), loader


def main(cmd=None) -> None:
    run(export_sherpa_onnx, get_parser(), cmd)


if __name__ == "__main__":
    main()
