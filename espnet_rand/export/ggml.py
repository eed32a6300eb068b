"""A packed Whisper model as the file that whisper.cpp loads (whisper.cpp/models/convert-pt-to-ggml.py).

Its matrices are in blocks of 32 weights of a row with one half-precision scale (ggml/src/ggml-quants.c): Q4_0 for codes
of up to 4 bits, Q5_0, Q8_0. Q4_1 and Q5_1 have a half-precision minimum as well, for zero points. The codes are those
of the packed file; half steps and few bits with zero points are integers of one bit more.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Dict, List, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from espnet_rand.atomic import replacing
from espnet_rand.export import whisper
from espnet_rand.export.codes import (
    FEWER,
    Exported,
    block_scales,
    code_matrix,
    in_blocks,
    misfit,
    refuse,
    scale_error,
    symmetric,
)
from espnet_rand.export.packages import installed
from espnet_rand.packing import PackedModel, PackedWeight
from espnet_rand.quantizers import Grid

BLOCK = 32
FIX = f"train or calibrate with granularity: group, group_size: 32 for all layers, {FEWER}"
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
        minimum: whether a block has the number that the code 0 of unsigned ones stands for
    """

    name: str
    bits: int
    number: int
    model_number: int
    minimum: bool = False

    @property
    def low(self) -> int:
        """The code that is stored as 0."""
        return Grid(self.bits).low

    @property
    def stored(self) -> float:
        """The bits that a weight takes, with its part of what its block has."""
        return self.bits + 16 * (1 + self.minimum) / BLOCK

    def holds(self, weight: PackedWeight) -> bool:
        """Whether the type holds a weight's codes."""
        if self.minimum:
            return weight.bits <= self.bits
        plain = symmetric(weight)
        return plain is not None and plain.bits <= self.bits

    def held(self, weight: PackedWeight) -> PackedWeight:
        """The weight with the codes that the type holds."""
        return weight if self.minimum else symmetric(weight)

    def encode(self, codes: np.ndarray, steps: List[np.ndarray]) -> np.ndarray:
        """Codes as bytes, (blocks, bytes of a block).

        Args:
            codes: int8, (blocks, 32)
            steps: float16, (blocks,): scales, and minima where there are any
        """
        parts = [step[:, None].view(np.uint8) for step in steps]
        if self.bits == 8:
            return np.hstack([*parts, codes.view(np.uint8)])
        unsigned = (codes + (1 << (self.bits - 1))).astype(np.uint8)
        if self.bits == 5:
            parts.append(np.packbits(unsigned >> 4, axis=1, bitorder="little"))
        low = unsigned & 15
        return np.hstack([*parts, low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << 4])


# from the smallest
TYPES = (
    BlockType("Q4_0", 4, 2, 2),
    BlockType("Q4_1", 4, 3, 3, minimum=True),
    BlockType("Q5_0", 5, 6, 8),
    BlockType("Q5_1", 5, 7, 9, minimum=True),
    BlockType("Q8_0", 8, 8, 7),
)


def export(packed: PackedModel, path: Union[str, Path]) -> Exported:
    """Write a packed Whisper model for whisper.cpp.

    Raises:
        ExportError: whisper.cpp cannot hold it; the message names everything that it cannot
        NotInstalledError: openai-whisper is missing, which has the vocabulary and the mel filters
    """
    model = describe(packed)
    kind = next(kind for kind in TYPES if all(map(kind.holds, model.matrices.values())))
    matrices = {name: kind.held(weight) for name, weight in model.matrices.items()}
    halves = {name: _halves(weight, kind) for name, weight in matrices.items()}
    convolutions = {name: model.floats.pop(name).half() for name in whisper.CONVOLUTIONS}
    steps = {name: torch.stack(some) for name, some in halves.items()}
    refuse(
        {
            name: "weights beyond half precision"
            for name, one in (*steps.items(), *convolutions.items())
            if not one.isfinite().all()
        },
        "train with weight decay, or calibrate another checkpoint",
    )
    with replacing(path) as temporary, temporary.open("wb") as file:
        _write_header(file, model.dims, kind)
        for name, weight in matrices.items():
            codes, steps = code_matrix(weight).reshape(-1, BLOCK), [half.reshape(-1).numpy() for half in halves[name]]
            _write_tensor(file, name, tuple(weight.shape), kind.number, kind.encode(codes.numpy(), steps))
        for name, tensor in convolutions.items():
            _write_tensor(file, name, tuple(tensor.shape), _F16, tensor.numpy())
        for name, tensor in model.floats.items():
            column = name in ("encoder.conv1.bias", "encoder.conv2.bias")  # whisper.cpp adds it to (channels, time)
            _write_tensor(file, name, (len(tensor), 1) if column else tuple(tensor.shape), _F32, tensor.numpy())
    error = scale_error((weight, *_as_added(halves[name], kind)) for name, weight in matrices.items())
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
    return f"scales that half precision does not hold, as {wrong[0]:.1e} (ONNX Runtime does)" if len(wrong) else ""


def _used(weight: PackedWeight) -> Tensor:
    """Which blocks, (channels, blocks), have a number that is not 0: the scales of others do not matter.

    Half steps of zeros are below the least normal number, which is their scale.
    """
    numbers = weight.values().flatten(1).unflatten(1, (-1, BLOCK)).abs().amax(2)
    return numbers > torch.finfo(torch.float32).tiny


def _halves(weight: PackedWeight, kind: BlockType) -> List[Tensor]:
    """What blocks have in a type, float16 (channels, blocks): scales, and minima where it has them."""
    scales, used = block_scales(weight, BLOCK), _used(weight)
    steps = [scales.where(used, 0).half()]
    if kind.minimum:
        lowest = weight.grid.values(torch.full_like(weight.wide_scales, kind.low), weight.wide_scales, weight.zeros)
        steps.append(in_blocks(weight, lowest.float(), BLOCK).where(used, 0).half())
    return steps


def _as_added(halves: List[Tensor], kind: BlockType) -> Tuple[Tensor, Tensor]:
    """Scales, and what they leave to add to code * scale, for `scale_error`."""
    scales = halves[0].double()
    return scales, halves[1].double() - kind.low * scales if kind.minimum else torch.zeros_like(scales)


def _notes(model: whisper.Whisper, kind: BlockType) -> List[str]:
    bits: Dict[int, int] = {}
    for weight in model.matrices.values():
        bits[weight.bits] = bits.get(weight.bits, 0) + 1
    notes = [
        f"{count} matrices with codes of {few} bits take {kind.stored:g} bits a weight, scales included"
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
