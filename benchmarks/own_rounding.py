"""Float Whisper models in the files of runtimes, and rounded by the runtimes: to compare with."""

import ctypes
from importlib.metadata import files
from pathlib import Path
from typing import Any, Dict

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from espnet_rand.atomic import replacing
from espnet_rand.export import ctranslate2, ggml, whisper
from espnet_rand.packing import PackedModel
from espnet_rand.toolkit.exporting import sherpa_whisper

F16, Q4_0 = ggml.BlockType("F16", 16, 1, 1), ggml.TYPES[0]


def float_whisper(state: Dict[str, torch.Tensor], heads: Dict[str, int]) -> whisper.Whisper:
    """A float Whisper model of ESPnet as exports describe one; its matrices are tensors."""
    packed = PackedModel({}, state, info={"whisper": heads})
    prefixes = {"encoder.encoders.": "encoder.", "decoder.decoders.": "decoder."}
    tensors = {}
    for name, tensor in state.items():
        for espnet, openai in prefixes.items():
            if name.startswith(espnet):
                tensors[openai + name.removeprefix(espnet)] = tensor.float()
    matrices = {name: one for name, one in tensors.items() if name.endswith(".weight") and one.dim() == 2}
    floats = {name: one for name, one in tensors.items() if name not in matrices}
    return whisper.Whisper(whisper.dims(packed), matrices, [], floats, [])


def write_ggml(model: whisper.Whisper, path: Path, kind: ggml.BlockType) -> None:
    """Write a float model for whisper.cpp, its matrices rounded by ggml itself; `F16` leaves them in half precision."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        ggml._write_header(file, model.dims, kind)
        for name, tensor in {**model.matrices, **model.floats}.items():
            shape = tuple(tensor.shape)
            if name in model.matrices:
                ggml._write_tensor(file, name, shape, kind.number, _rounded(tensor, kind))
            elif name in whisper.CONVOLUTIONS:
                ggml._write_tensor(file, name, shape, 1, tensor.half().numpy())
            else:
                column = name in ("encoder.conv1.bias", "encoder.conv2.bias")
                ggml._write_tensor(file, name, (len(tensor), 1) if column else shape, 0, tensor.numpy())


def _rounded(tensor: torch.Tensor, kind: ggml.BlockType) -> np.ndarray:
    if kind is F16:
        return tensor.half().numpy()
    (path,) = (file.locate() for file in files("pywhispercpp") if file.name == "libggml-base.so")
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    w = np.ascontiguousarray(tensor.numpy(), dtype=np.float32)
    out = np.zeros(w.size // ggml.BLOCK * (2 + 4 * kind.bits), dtype=np.uint8)
    source, target = (array.ctypes.data_as(ctypes.c_void_p) for array in (w, out))
    rows, length = w.shape
    long = ctypes.c_int64
    size = library.ggml_quantize_chunk(kind.number, source, target, long(0), long(rows), long(length), None)
    assert size == out.size, (size, out.size)
    return out


class _FloatLayers(ctranslate2._Layers):
    def _linear(self, layer: Any, *names: str) -> None:
        layer.weight = np.concatenate([self.model.matrices[f"{name}.weight"].numpy() for name in names])
        biases = [self.model.floats.get(f"{name}.bias") for name in names]
        if any(bias is not None for bias in biases):
            layer.bias = np.concatenate(
                [
                    np.zeros(len(self.model.matrices[f"{name}.weight"]), np.float32) if bias is None else bias.numpy()
                    for name, bias in zip(names, biases)
                ]
            )


def write_ctranslate2(model: whisper.Whisper, path: Path) -> None:
    """Write a float model for CTranslate2, which rounds it when it is loaded with compute_type int8."""
    layers = _FloatLayers(model, {})
    ctranslate2._write(model.dims, layers, path)


def write_sherpa_onnx(state: Dict[str, torch.Tensor], heads: Dict[str, int], path: Path, rounded: bool) -> None:
    """Write a float model for sherpa-onnx; `rounded`: by ONNX Runtime's quantize_dynamic, as sherpa-onnx's own are."""
    sherpa_whisper.export(PackedModel({}, dict(state), info={"whisper": heads}), path)
    if rounded:
        for file in [*path.glob("*.onnx")]:
            half = file.with_suffix(".float")
            file.rename(half)
            quantize_dynamic(half, file, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
            half.unlink()
