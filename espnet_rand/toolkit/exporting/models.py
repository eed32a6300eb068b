"""ESPnet's models as ONNX files."""

import argparse
import copy
import hashlib
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import espnet2
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from onnx import ModelProto
from torch import Tensor, nn

import espnet_rand
from espnet_rand.atomic import write_text
from espnet_rand.export.codes import ExportError
from espnet_rand.export.onnx import fill, save
from espnet_rand.export.operators import check as check_weight
from espnet_rand.export.symbols import symbolize
from espnet_rand.packing import PackedModel
from espnet_rand.toolkit.exporting import attention, checking, encoders, features, transducers
from espnet_rand.toolkit.exporting.tracing import trace
from espnet_rand.toolkit.recognition.recognizer import trained_rate

try:
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import check_short_utt
except ImportError:  # ESPnet 202511
    from espnet.nets.pytorch_backend.transformer.subsampling import check_short_utt

#: Frames of features of the examples that models are traced with. The tracer takes some sizes that are equal in the
#: example for equal at all lengths. 255 frames stay odd in subsampling by 2, 4 and 8, where such sizes differ.
FRAMES = 255
_TOKENS = 5


class Recognizer(nn.Module):
    """Speech (1, samples), or features (1, frames, bands) -> log-probabilities of CTC (1, fewer frames, tokens)."""

    def __init__(self, model: Any):
        super().__init__()
        self.features, self.encoder, self.ctc = features.Features(model), encoders.make(model), model.ctc

    def forward(self, x: Tensor) -> Tensor:
        return self.ctc.log_softmax(self.encoder(self.features(x)))


class Times(NamedTuple):
    """How long things are.

    Attributes:
        rate: samples in a second
        hop: samples in a frame of features; 0 where the model takes features
        bands: of a frame of these; else 0
        subsampling: frames of features in one of the encoder
        frames: of the encoder, at most; 0 where there is no limit
        shortest: samples, or frames of features, at least
    """

    rate: int
    hop: int
    bands: int
    subsampling: int
    frames: int
    shortest: int


class Graph(NamedTuple):
    """One file of a model.

    Attributes:
        file: its name
        parts: names of the model's modules that it computes with
        kind: the module that is traced, which is made of the model
        inputs: an example of each, by their names
        dynamic: see `trace`
        outputs: their names
    """

    file: str
    parts: Sequence[str]
    kind: Callable[[Any], nn.Module]
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Dict[int, str]]
    outputs: List[str]


def check(model: Any) -> None:
    """Raises ExportError: the model is of an architecture that is not written; the message names it."""
    if type(model) not in (ESPnetASRModel, ESPnetASRTransducerModel):
        why = f"model {type(model).__name__}"
    elif _is_transducer(model):
        why = transducers.misfit(model)
    else:
        decoder = attention.misfit(model.decoder)
        why = f"it has no CTC, and {decoder}" if model.ctc is None and decoder else ""
    if why := why or features.misfit(model) or encoders.misfit(model):
        raise ExportError(
            f"the model cannot be written for ONNX Runtime: {why}. Fix: train one with CTC, a transformer decoder or a "
            f"transducer, ESPnet's default frontend and an encoder of {', '.join(encoders.ENCODERS)}"
        )


def graphs(model: Any, times: Times) -> List[Graph]:
    """The files of a model that has been checked."""
    if times.hop:
        stft = model.frontend.stft
        samples = FRAMES * times.hop - times.hop // 2 + (0 if stft.center else stft.n_fft)
        heard, axis = {"speech": torch.zeros(1, samples)}, "samples"
    else:
        heard, axis = {"features": torch.zeros(1, FRAMES, times.bands)}, "feature_frames"
    dynamic = {name: {1: axis} for name in heard}
    if _is_transducer(model):
        return _graphs_of_transducer(model, heard, dynamic)
    recognizer = ("preencoder", "encoder", "ctc")
    if attention.misfit(model.decoder):
        return [Graph("model.onnx", recognizer, Recognizer, heard, dynamic, ["log_probs"])]
    return _graphs_of_attention(model, heard, dynamic, recognizer)


def _graphs_of_attention(model: Any, heard: Any, dynamic: Any, recognizer: Tuple[str, ...]) -> List[Graph]:
    outputs = ["speech_keys", "speech_values"] if model.ctc is None else ["log_probs", "speech_keys", "speech_values"]
    of_speech = tuple(
        f"decoder.decoders.{number}.src_attn.{name}"
        for number in range(len(model.decoder.decoders))
        for name in ("linear_k", "linear_v")
    )
    step = {"token": torch.zeros(1, 1, dtype=torch.int64), **attention.cache(model.decoder, _TOKENS, FRAMES)}
    axes = {name: {2: "encoded_frames" if name.startswith("speech") else "tokens"} for name in step if name != "token"}
    after = ["log_probs", "next_keys", "next_values"]
    return [
        Graph("model.onnx", (*recognizer, *of_speech), attention.Recognizer, heard, dynamic, outputs),
        Graph("decoder.onnx", ("decoder",), attention.Step, step, axes, after),
    ]


def _graphs_of_transducer(model: Any, heard: Any, dynamic: Any) -> List[Graph]:
    states = transducers.states(model.decoder)
    encoder = ("preencoder", "encoder", "joint_network.lin_enc")
    step = {"token": torch.zeros(1, 1, dtype=torch.int64), **states}
    after = ["predicted", *(f"next_{name}" for name in states)]
    pair = {name: torch.zeros(1, model.joint_network.lin_out.in_features) for name in ("encoded", "predicted")}
    return [
        Graph("model.onnx", encoder, transducers.Encoded, heard, dynamic, ["encoded"]),
        Graph("prediction.onnx", ("decoder", "joint_network.lin_dec"), transducers.Prediction, step, {}, after),
        Graph("joint.onnx", ("joint_network.lin_out",), transducers.Joint, pair, {}, ["log_probs"]),
    ]


def export(
    model: Any, packed: PackedModel, folder: Path, times: Times, about: Mapping[str, Any], exact: bool
) -> Dict[str, str]:
    """Write a model's files, and tokens.txt. The model is of no use afterwards.

    Args:
        model: with `packed` loaded into it, and checked
        times: of `measure`
        about: for the files' metadata
        exact: see `espnet_rand.export.onnx.fill`

    Returns:
        how each weight is computed with, by its name
    """
    made, ways = filled(model, packed, graphs(model, times), times, exact)
    for file, graph in made.items():
        save(graph, folder / file, {**about, **_described(times)})
    write_text(folder / "tokens.txt", "".join(f"{token} {i}\n" for i, token in enumerate(model.token_list)))
    return ways


def filled(
    model: Any, packed: PackedModel, files: Sequence[Graph], times: Times, exact: bool
) -> Tuple[Dict[str, ModelProto], Dict[str, str]]:
    """The files of a model, by their names, and how each weight is computed with. The model is of no use afterwards.

    Raises:
        ExportError: a graph has weights that the operators cannot compute with, does not trace, or does not compute
            what the model computes
    """
    most = (times.frames - 1) * times.subsampling if times.frames else 0  # what the tables of positions have room for
    axes = {"samples": checking.Axis(times.hop, most * times.hop), "feature_frames": checking.Axis(1, most)}
    computed = [checking.compute(graph.kind(model), graph.inputs, graph.dynamic, axes) for graph in files]
    operators = symbols(model, packed, files, exact)
    encoders.cut_positions(model, times.frames)
    made: Dict[str, ModelProto] = {}
    ways: Dict[str, str] = {}
    for graph, names, expected in zip(files, operators, computed):
        traced = trace(graph.kind(model), graph.inputs, graph.dynamic, graph.outputs)
        weights = {name: packed.weights[name] for name in names}
        in_float = copy.deepcopy(traced)
        fill(in_float, weights, exact=True)
        checking.check(in_float, graph.file, expected)
        ways.update(fill(traced, weights, exact))
        made[graph.file] = traced
    return made, ways


def symbols(model: Any, packed: PackedModel, files: Sequence[Graph], exact: bool) -> List[Dict[str, Set[str]]]:
    """Put symbols in the place of a model's packed layers, for each file; see `symbolize`.

    Raises:
        ExportError: it has weights that the operators cannot compute with
    """
    found = [symbolize(model, packed, graph.parts) for graph in files]
    for name, operators in (pair for entry in found for pair in entry.items()):
        check_weight(name, packed.weights[name], operators, exact)
    return found


def measure(model: Any, trained: argparse.Namespace, longest: Optional[float]) -> Times:
    """How long what a model hears may be, and its frames.

    Args:
        trained: the options that it was trained with
        longest: seconds that the tables of positions are cut to; None: they stay as they are

    Raises:
        ExportError: it is more than they have, or the model takes features, whose seconds are not known; ESPnet changes
            the volume of what the model hears
    """
    if getattr(trained, "speech_volume_normalize", None) is not None:
        raise ExportError(
            "the model was trained with speech_volume_normalize, which no file does. Fix: train without it, "
            "or take the line out of a copy of config.yaml and change the volume of recordings yourself"
        )
    rate, bands = trained_rate(trained), 0 if model.frontend is not None else trained.input_size
    hop = model.frontend.hop_length if model.frontend is not None else 0
    kind = type(model.encoder.embed).__name__
    subsampling = int(kind.rpartition("Subsampling")[2] or 4) if "Subsampling" in kind else 1
    subsampling = getattr(model.encoder.embed, "subsampling_factor", subsampling)
    tables = encoders.position_tables(model).values()
    frames = min(tables, default=0)
    if longest is not None and not hop:
        raise ExportError("--longest: the model takes features, and not seconds of speech. Fix: leave it out")
    if longest is not None and tables:
        most = math.floor((frames - 1) * hop * subsampling / rate * 10) / 10
        if not 0 < longest <= most:
            raise ExportError(f"--longest: {longest:g} s are not possible. Fix: more than 0, and {most:g} at most")
        frames = math.ceil(longest * rate / hop / subsampling) + 1
    return Times(rate, hop, bands, subsampling, frames, _shortest(model, subsampling))


def _shortest(model: Any, subsampling: int) -> int:
    """The least number of samples, or of frames of features, that a model hears."""
    _, frames = check_short_utt(model.encoder.embed, 0)
    frames = frames if frames > 0 else 4 * subsampling
    stft = getattr(model.frontend, "stft", None)
    if stft is None:
        return frames
    samples = (frames - 1) * stft.hop_length
    return max(samples, stft.n_fft // 2 + 1) if stft.center else samples + stft.n_fft


def describe(model: Any, packed_file: Path) -> Dict[str, Any]:
    """What all files of a model say of it."""
    return {
        "espnet_rand": espnet_rand.__version__,
        "espnet": espnet2.__version__,
        "torch": torch.__version__,
        "packed_file_sha256": hashlib.sha256(packed_file.read_bytes()).hexdigest(),
        "type": _type(model),
        "vocab_size": len(model.token_list),
        "sos_id": getattr(model, "sos", -1),
        "eos_id": getattr(model, "eos", -1),
        "blank_id": getattr(model, "blank_id", 0),  # of transducers the embedding's pad, which is 0
    }


def _described(times: Times) -> Dict[str, Any]:
    about: Dict[str, Any] = {"sample_rate": times.rate, "hop_length": times.hop, "subsampling": times.subsampling}
    about["shortest"] = times.shortest
    if times.frames:
        about["longest_frames"] = times.frames
    return about


def _is_transducer(model: Any) -> bool:
    return isinstance(model, ESPnetASRTransducerModel) or model.use_transducer_decoder


def _type(model: Any) -> str:
    if _is_transducer(model):
        return "transducer"
    parts = {"ctc": model.ctc is not None, "attention": not attention.misfit(model.decoder)}
    return "_".join(name for name, there in parts.items() if there)
