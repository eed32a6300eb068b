"""Write a packed model for sherpa-onnx, with its integer codes."""

import argparse
from pathlib import Path
from typing import Any, Dict, Tuple

from espnet_rand.bin import packed_file
from espnet_rand.bin.command import run
from espnet_rand.packing import PackedModel
from espnet_rand.toolkit.commands import checkpoints
from espnet_rand.toolkit.exporting import models, sherpa, sherpa_whisper


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_sherpa_onnx", description=__doc__)
    checkpoints.add_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument(
        "--longest",
        type=float,
        help="seconds of the longest recording: tables of positions are cut to it; Whisper's are 30 s",
    )
    return parser


def export_sherpa_onnx(args: argparse.Namespace) -> None:
    """Write the directory, and say what it holds and how sherpa-onnx loads it."""
    packed = checkpoints.read_model_file(args)
    if sherpa_whisper.is_whisper(packed):
        ways, call = _whisper(packed, args.output)
    else:
        ways, call = _ctc(args)
    packed_file.say_ways(packed, ways, args.output)
    print(call)


def _whisper(packed: PackedModel, folder: Path) -> Tuple[Dict[str, str], str]:
    """How each weight is computed with, and how the model is loaded; likewise below."""
    ways = sherpa_whisper.export(packed, folder)
    return ways, _call("from_whisper", folder, encoder="encoder.onnx", decoder="decoder.onnx")


def _ctc(args: argparse.Namespace) -> Tuple[Dict[str, str], str]:
    model, trained, packed = checkpoints.load_packed(args)
    sherpa.check(model, trained)
    times, bands = models.measure(model, trained, args.longest), model.frontend.output_size()
    about = models.describe(model, args.model_file)
    ways = sherpa.export(model, packed, args.output, times, about, trained.token_type)
    call = _call("from_zipformer_ctc", args.output, model="model.onnx", sample_rate=times.rate, feature_dim=bands)
    if times.subsampling != sherpa.SUBSAMPLING:
        call += f"  # multiply its timestamps by {times.subsampling / sherpa.SUBSAMPLING:g}"
    return ways, call


def _call(loader: str, folder: Path, **options: Any) -> str:
    options["tokens"] = "tokens.txt"
    values = {key: str(folder / value) if isinstance(value, str) else value for key, value in options.items()}
    return f"sherpa_onnx.OfflineRecognizer.{loader}({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def main(cmd=None) -> None:
    run(export_sherpa_onnx, get_parser(), cmd)


if __name__ == "__main__":
    main()
