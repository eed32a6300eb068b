"""Write a packed model for sherpa-onnx, with its integer codes."""

import argparse
from pathlib import Path
from typing import Any, Dict, Tuple

from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel

from espnet_rand.bin import packed_file
from espnet_rand.bin.command import run
from espnet_rand.packing import PackedModel
from espnet_rand.toolkit.commands import checkpoints
from espnet_rand.toolkit.exporting import models, sherpa, sherpa_transducer, sherpa_whisper


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_sherpa_onnx", description=__doc__)
    checkpoints.add_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument(
        "--longest",
        type=float,
        help="seconds of the longest recording: tables of positions are cut to it; Whisper's are 30 s",
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
    packed = checkpoints.read_model_file(args)
    if sherpa_whisper.is_whisper(packed):
        ways, call = _whisper(packed, args.output)
    else:
        ways, call = _heard(args)
    packed_file.say_ways(packed, ways, args.output)
    print(call)


def _whisper(packed: PackedModel, folder: Path) -> Tuple[Dict[str, str], str]:
    """How each weight is computed with, and how the model is loaded; likewise below."""
    ways = sherpa_whisper.export(packed, folder)
    return ways, _call("OfflineRecognizer.from_whisper", folder, encoder="encoder.onnx", decoder="decoder.onnx")


def _heard(args: argparse.Namespace) -> Tuple[Dict[str, str], str]:
    """Of models that hear Kaldi's features."""
    chunks = sherpa.chunks(args.decoding_window, args.left_context)
    model, trained, packed = checkpoints.load_packed(args)
    sherpa.check(model, trained)
    times, bands = models.measure(model, trained, args.longest), model.frontend.output_size()
    about = models.describe(model, args.model_file)
    ways = sherpa.export(model, packed, args.output, times, about, trained.token_type, chunks)
    heard = {"sample_rate": times.rate, "feature_dim": bands}
    if isinstance(model, ESPnetASRTransducerModel):
        files = {name: f"{name}.onnx" for name in ("encoder", "decoder", "joiner")}
        kind = "OnlineRecognizer" if sherpa_transducer.is_streaming(model) else "OfflineRecognizer"
        call = _call(f"{kind}.from_transducer", args.output, **files, **heard)
    else:
        call = _call("OfflineRecognizer.from_zipformer_ctc", args.output, model="model.onnx", **heard)
    if times.subsampling != sherpa.SUBSAMPLING:
        call += f"  # multiply its timestamps by {times.subsampling / sherpa.SUBSAMPLING:g}"
    return ways, call


def _call(loader: str, folder: Path, **options: Any) -> str:
    options["tokens"] = "tokens.txt"
    values = {key: str(folder / value) if isinstance(value, str) else value for key, value in options.items()}
    return f"sherpa_onnx.{loader}({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def main(cmd=None) -> None:
    run(export_sherpa_onnx, get_parser(), cmd)


if __name__ == "__main__":
    main()
