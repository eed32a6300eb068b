"""ESPnet's models of CTC in the form that sherpa-onnx calls zipformer2_ctc."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Mapping

import torch

from espnet_rand.atomic import replacing_directory, write_text
from espnet_rand.export import one_by_one, onnx, operators
from espnet_rand.export.codes import ExportError
from espnet_rand.export.symbols import symbolize
from espnet_rand.packing import PackedModel
from espnet_rand.toolkit import kaldi_fbank
from espnet_rand.toolkit.exporting import encoders, models
from espnet_rand.toolkit.exporting.tracing import trace

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
    if getattr(trained, "speech_volume_normalize", None) is not None:
        raise ExportError(
            "the model has speech_volume_normalize, and sherpa-onnx leaves the volume as it is. Fix: train without it"
        )
    frontend, model.frontend = model.frontend, None  # sherpa-onnx's
    try:
        models.check(model)
    finally:
        model.frontend = frontend


def export(
    model: Any, packed: PackedModel, folder: Path, times: models.Times, about: Mapping[str, Any], kind: str
) -> Dict[str, str]:
    """Write model.onnx and tokens.txt, for `sherpa_onnx.OfflineRecognizer.from_zipformer_ctc`.

    The model is of no use afterwards.

    Args:
        model: with `packed` loaded into it, and checked
        times: of `models.measure`
        about: for the file's metadata
        kind: of its tokens, ESPnet's `token_type`

    Returns:
        how each weight is computed with, by its name

    Raises:
        ExportError: it has tokens, or weights, that the files cannot hold
    """
    tokens = token_lines(model.token_list, model.blank_id, kind)
    bands, model.frontend = model.frontend.output_size(), None
    symbols = symbolize(model, packed, ("preencoder", "encoder", "ctc"))
    for weight, kinds in symbols.items():
        operators.check(weight, packed.weights[weight], kinds, exact=False)
    encoders.cut_positions(model.encoder, times.frames)
    example = {"features": torch.zeros(1, 200, bands)}
    graph = trace(models.Recognizer(model), example, {"features": {1: "feature_frames"}}, ["log_prob"])
    ways = onnx.fill(graph, {weight: packed.weights[weight] for weight in symbols})
    one_by_one.loop(graph, times.subsampling)
    with replacing_directory(folder) as temporary:
        onnx.save(graph, temporary / "model.onnx", {**about, "model_type": "zipformer2_ctc"})
        write_text(temporary / "tokens.txt", tokens)
    return ways


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
