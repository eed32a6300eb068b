"""A packed Whisper model as the file that whisper.cpp loads (whisper.cpp/models/convert-pt-to-ggml.py).

Its matrices are in blocks of 32 weights of a row with one half-precision scale (ggml/src/ggml-quants.c):
Q4_0 for codes of up to 4 bits, Q5_0, Q8_0. The codes are those of the packed file.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Dict, List, Tuple, Union

import numpy as np
from torch import Tensor

from espnet_rand.atomic import replacing
from espnet_rand.export import whisper
from espnet_rand.export.codes import Exported, block_scales, code_matrix, misfit, refuse, scale_error
from espnet_rand.export.packages import installed
from espnet_rand.packing import PackedModel, PackedWeight

BLOCK = 32
FIX = "train or calibrate with granularity: group, group_size: 32 for all layers, and none excluded"
_MAGIC, _VERSION = 0x67676D6C, 2000
# relative, of a scale; rounding to a normal half makes 4.9e-4 at most
_MOST_ERROR = 1e-3
_F32, _F16 = 0, 1


@dataclass(frozen=True)
class BlockType:
    """A type of matrices.

    Attributes:
        bits: of a code at most
        number: the type's in a tensor (ggml.h, ggml_type)
        model_number: the type's in a file's header (ggml.h, ggml_ftype)
    """

    name: str
    bits: int
    number: int
    model_number: int

    def encode(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Codes, int8 (blocks, 32), with their scales, float16 (blocks,), as bytes, (blocks, bytes of a block)."""
        parts = [scales[:, None].view(np.uint8)]
        if self.bits == 8:
            return np.hstack([*parts, codes.view(np.uint8)])
        unsigned = (codes + (1 << (self.bits - 1))).astype(np.uint8)
        if self.bits == 5:
            parts.append(np.packbits(unsigned >> 4, axis=1, bitorder="little"))
        low = unsigned & 15
        return np.hstack([*parts, low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << 4])


TYPES = (BlockType("Q4_0", 4, 2, 2), BlockType("Q5_0", 5, 6, 8), BlockType("Q8_0", 8, 8, 7))


def export(packed: PackedModel, path: Union[str, Path]) -> Exported:
    """Write a packed Whisper model for whisper.cpp.

    Raises:
        ExportError: whisper.cpp cannot hold it; the message names everything that it cannot
        NotInstalledError: openai-whisper is missing, which has the vocabulary and the mel filters
    """
    model = describe(packed)
    scales = {name: block_scales(weight, BLOCK) for name, weight in model.matrices.items()}
    halves = {name: some.where(_used(model.matrices[name]), 0).half() for name, some in scales.items()}
    convolutions = {name: model.floats.pop(name).half() for name in whisper.CONVOLUTIONS}
    refuse(
        {name: "weights beyond half precision" for name, one in convolutions.items() if not one.isfinite().all()},
        "train with weight decay, or calibrate another checkpoint",
    )
    kind = next(kind for kind in TYPES if kind.bits >= max(weight.bits for weight in model.matrices.values()))
    with replacing(path) as temporary, temporary.open("wb") as file:
        _write_header(file, model.dims, kind)
        for name, weight in model.matrices.items():
            blocks = code_matrix(weight).reshape(-1, BLOCK).numpy(), halves[name].reshape(-1).numpy()
            _write_tensor(file, name, tuple(weight.shape), kind.number, kind.encode(*blocks))
        for name, tensor in convolutions.items():
            _write_tensor(file, name, tuple(tensor.shape), _F16, tensor.numpy())
        for name, tensor in model.floats.items():
            column = name in ("encoder.conv1.bias", "encoder.conv2.bias")  # whisper.cpp adds it to (channels, time)
            _write_tensor(file, name, (len(tensor), 1) if column else tuple(tensor.shape), _F32, tensor.numpy())
    error = scale_error((weight, scales[name], halves[name]) for name, weight in model.matrices.items())
    return Exported(f"whisper.cpp, {kind.name}", error, _notes(model, kind))


def describe(packed: PackedModel) -> whisper.Whisper:
    """A packed model as a Whisper model. Raises ExportError: whisper.cpp cannot hold it."""
    return whisper.describe(packed, _problem, FIX)


def _problem(weight: PackedWeight) -> str:
    """What keeps a matrix out of whisper.cpp, for `refuse`, or ""."""
    if problem := misfit(weight, BLOCK):
        return problem
    if weight.shape[1] % BLOCK:
        return f"rows of {weight.shape[1]} weights, which are no whole blocks of {BLOCK}"
    scales = block_scales(weight, BLOCK)[_used(weight)].double()
    wrong = scales[(scales.half() / scales - 1).abs() > _MOST_ERROR]
    return f"scales that half precision does not hold, as {wrong[0]:.1e}" if len(wrong) else ""


def _used(weight: PackedWeight) -> Tensor:
    """Which blocks, (channels, blocks), have a code that is not 0: the scales of others do not matter."""
    return code_matrix(weight).unflatten(1, (-1, BLOCK)).any(2)


def _notes(model: whisper.Whisper, kind: BlockType) -> List[str]:
    bits: Dict[int, int] = {}
    for weight in model.matrices.values():
        bits[weight.bits] = bits.get(weight.bits, 0) + 1
    stored = kind.bits + 16 / BLOCK
    notes = [
        f"{count} matrices with codes of {few} bits take {stored:g} bits a weight, scales included"
        for few, count in sorted(bits.items())
    ]
    return notes + model.notes("half precision")


def _write_header(file: IO[bytes], dims: whisper.Dims, kind: BlockType) -> None:
    """Sizes, mel filters, and the tokens that are text; whisper.cpp knows the others by n_vocab."""
    vocabulary = whisper.tokenizer(dims).encoding
    filters = installed("whisper.audio").mel_filters("cpu", dims.n_mels).numpy()
    sizes = [dims.n_vocab, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer]
    sizes += [dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer, dims.n_mels]
    _write_numbers(file, _MAGIC, *sizes, _VERSION + kind.model_number, *filters.shape)
    file.write(filters.astype("<f4").tobytes())
    tokens = [vocabulary.decode_single_token_bytes(i) for i in range(vocabulary.eot_token)]
    _write_numbers(file, len(tokens))
    for token in tokens:
        _write_numbers(file, len(token))
        file.write(token)


def _write_tensor(file: IO[bytes], name: str, shape: Tuple[int, ...], number: int, data: np.ndarray) -> None:
    _write_numbers(file, len(shape), len(name), number, *reversed(shape))
    file.write(name.encode())
    file.write(data.tobytes())


def _write_numbers(file: IO[bytes], *numbers: int) -> None:
    file.write(struct.pack(f"<{len(numbers)}i", *numbers))
