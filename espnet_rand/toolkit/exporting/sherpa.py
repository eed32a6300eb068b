"""ESPnet's models in the forms of sherpa-onnx: CTC as zipformer2_ctc, and transducers."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel

from espnet_rand.atomic import replacing_directory, write_text
from espnet_rand.export import one_by_one, onnx
from espnet_rand.export.codes import ExportError
from espnet_rand.packing import PackedModel
from espnet_rand.toolkit import kaldi_fbank
from espnet_rand.toolkit.exporting import models, sherpa_transducer
from espnet_rand.toolkit.exporting.sherpa_whisper import Loader

#: Frames of features in one of the encoder, by which sherpa-onnx computes times.
SUBSAMPLING = 4
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # of SentencePiece; sherpa-onnx writes a space for it
_FEATURES = "Fix: train with frontend: kaldi_fbank (docs/export.md), from the pretrained model where there is one"


def check(model: Any, trained: argparse.Namespace) -> None:
    """See that sherpa-onnx can compute what a model does.

    Raises:
        ExportError: it cannot; the message says why
    """
    if getattr(model, "frontend", None) is None or type(model.frontend) is not kaldi_fbank.KaldiFbank:
        found = getattr(trained, "frontend", None)
        raise ExportError(
            f"the model has frontend: {found}, and sherpa-onnx computes Kaldi's features alone. {_FEATURES}"
        )
    if isinstance(model, ESPnetASRTransducerModel):
        why = sherpa_transducer.misfit(model)
    else:
        has_ctc = isinstance(model, ESPnetASRModel) and model.ctc is not None and not model.use_transducer_decoder
        why = "" if has_ctc else "neither CTC nor a stateless decoder. Fix: train with CTC, or the task asr_transducer"
    if why:
        raise ExportError(f"the model cannot be written for sherpa-onnx: it has {why}")
    if not sherpa_transducer.is_streaming(model):
        frontend, model.frontend = model.frontend, None  # sherpa-onnx's
        try:
            models.check(model)
        finally:
            model.frontend = frontend


class Chunks(NamedTuple):
    """Of streaming: frames of the encoder that are computed together, and that they see before them."""

    size: int
    left: int


def chunks(window: int = 640, left: int = 32) -> Chunks:
    """The chunks of a window in milliseconds, and a left context in frames of the encoder.

    Raises:
        ExportError: they are not allowed
    """
    frame = 10 * SUBSAMPLING
    if window % frame or not frame <= window <= 10_000:
        raise ExportError(f"--decoding_window: {window} is not possible. Fix: {frame} to 10000, in steps of {frame}")
    if not 1 <= left <= 1000:
        raise ExportError(f"--left_context: {left} is not possible. Fix: 1 to 1000")
    return Chunks(window // frame, left)


def loader(model: Any, times: models.Times) -> Loader:
    """What loads the files of a model, which is not exported yet."""
    options: Dict[str, Any] = {"tokens": "tokens.txt"}
    options.update(sample_rate=times.rate, feature_dim=model.frontend.output_size())
    remark = ""
    if times.subsampling != SUBSAMPLING:
        remark = f"  # multiply its timestamps by {times.subsampling / SUBSAMPLING:g}"
    if not isinstance(model, ESPnetASRTransducerModel):
        return Loader("OfflineRecognizer.from_zipformer_ctc", {"model": "model.onnx", **options}, remark)
    kind = "OnlineRecognizer" if sherpa_transducer.is_streaming(model) else "OfflineRecognizer"
    files = {name: f"{name}.onnx" for name in ("encoder", "decoder", "joiner")}
    return Loader(f"{kind}.from_transducer", {**files, **options}, remark)


def export(
    model: Any,
    packed: PackedModel,
    folder: Path,
    times: models.Times,
    about: Mapping[str, Any],
    kind: str,
    chunks: Chunks,
) -> Dict[str, str]:
    """Write a model's files, and tokens.txt. The model is of no use afterwards.

    Args:
        model: with `packed` loaded into it, and checked
        times: of `models.measure`
        about: for the files' metadata
        kind: of its tokens, ESPnet's `token_type`

    Returns:
        how each weight is computed with, by its name

    Raises:
        ExportError: it has tokens, or weights, that the files cannot hold
    """
    tokens = token_lines(model.token_list, getattr(model, "blank_id", 0), kind)
    bands, model.frontend = model.frontend.output_size(), None  # features are sherpa-onnx's
    streaming, files = sherpa_transducer.is_streaming(model), _files(model, bands, chunks)
    if isinstance(model, ESPnetASRTransducerModel):
        about = {**about, **sherpa_transducer.about(model, *chunks)}
    else:
        about = {**about, "model_type": "zipformer2_ctc"}
    made, ways = models.filled(model, packed, files, times, exact=False)
    if not streaming:
        one_by_one.loop(made[files[0].file], times.subsampling)
    with replacing_directory(folder) as temporary:
        for file, graph in made.items():
            onnx.save(graph, temporary / file, about)
        write_text(temporary / "tokens.txt", tokens)
    return ways


def check_files(model: Any, packed: PackedModel, kind: str, chunks: Chunks) -> None:
    """See that the files can hold a model's tokens and weights; see `export`. The model is of no use afterwards."""
    token_lines(model.token_list, getattr(model, "blank_id", 0), kind)
    bands, model.frontend = model.frontend.output_size(), None
    models.symbols(model, packed, _files(model, bands, chunks), exact=False)


def _files(model: Any, bands: int, chunks: Chunks) -> List[models.Graph]:
    """The files of a model whose features have so many bands."""
    if isinstance(model, ESPnetASRTransducerModel):
        return sherpa_transducer.graphs(model, bands, *chunks)
    example, dynamic = {"features": torch.zeros(1, models.FRAMES, bands)}, {"features": {1: "feature_frames"}}
    parts = ("preencoder", "encoder", "ctc")
    return [models.Graph("model.onnx", parts, models.Recognizer, example, dynamic, ["log_prob"])]


def token_lines(tokens: List[str], blank: int, kind: str) -> str:
    """Lines of a token and its number, as sherpa-onnx reads them: it joins tokens without spaces between them.

    Args:
        kind: ESPnet's `token_type`

    Raises:
        ExportError: a token is not to be written so
    """
    if kind not in ("char", "bpe", "word", "phn"):
        raise ExportError(
            f"token_type: {kind} cannot be written for sherpa-onnx. Fix: train with bpe, char, word or phn"
        )
    written = [_SPACE if token == "<space>" else _SPACE + token if kind == "word" else token for token in tokens]
    written[blank] = "<blk>"
    for number, token in enumerate(written):
        if not token or token.split() != [token]:
            raise ExportError(f"token {number}, {token!r}, cannot be written for sherpa-onnx. Fix: no spaces in tokens")
    return "".join(f"{token} {number}\n" for number, token in enumerate(written))
