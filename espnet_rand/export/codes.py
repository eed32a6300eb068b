"""The codes and scales of a packed weight, in the blocks that runtimes have."""

import math
from dataclasses import dataclass, field, replace
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

from espnet_rand.errors import UserError, few
from espnet_rand.options import BITS
from espnet_rand.packing import PackedWeight
from espnet_rand.packing.bits import pack
from espnet_rand.quantizers import Grid, PerColumn, PerGroup, PerTensor, Rotation, grid_name
from espnet_rand.quantizers.grid import Signed

#: What else keeps weights out of runtimes for Whisper, for a remedy.
FEWER = "rotation: none, at most 7 bits where the grid is half_step or asymmetric, and no layer excluded"


class ExportError(UserError, ValueError):
    """The model cannot be written for a runtime; the message names the weight or layer, and the remedy."""


@dataclass(frozen=True)
class Exported:
    """What a runtime's file holds, for people to read.

    Attributes:
        format: what the codes are stored as there
        scale_error: root mean square of what rounding the steps changes in the weights, relative to theirs
        notes: of what is held otherwise than in the packed file, and of what is left out
    """

    format: str
    scale_error: float
    notes: List[str] = field(default_factory=list)

    def __str__(self) -> str:
        codes = (
            f"matrices have the packed file's codes; rounding of scales changes weights by {self.scale_error:.1e} rms"
        )
        return "\n".join([self.format, codes, *self.notes])


def refuse(problems: Mapping[str, str], fix: str) -> None:
    """Raise an ExportError that names all weights of a model that a runtime cannot hold; nothing, if there are none.

    Args:
        problems: from names to what these weights have that the runtime does not
        fix: what the user can do
    """
    names: Dict[str, List[str]] = {}
    for name, reason in problems.items():
        names.setdefault(reason, []).append(name)
    if names:
        said = "; ".join(f"{few(some, 2)}: {reason}" for reason, some in names.items())
        raise ExportError(f"{said}. Fix: {fix}")


def scale_error(weights: Iterable[Tuple[PackedWeight, Tensor, Tensor]]) -> float:
    """The root mean square of what rounding of steps changes in weights, relative to that of the weights.

    Args:
        weights: each with the scales in blocks, (channels, blocks), that a runtime has, and with what it adds to the
            numbers of each block, likewise
    """
    changed = total = 0.0
    for weight, scales, added in weights:
        wanted = weight.values().double().flatten(1)
        codes = code_matrix(weight).double().unflatten(1, (scales.shape[1], -1))
        held = (codes * scales.double().unsqueeze(2) + added.double().unsqueeze(2)).flatten(1)
        changed += float((held - wanted).square().sum())
        total += float(wanted.square().sum())
    return math.sqrt(changed / total) if total else 0.0


def code_matrix(weight: PackedWeight) -> Tensor:
    """The codes, int8, (channels, length): a row for each output channel."""
    return weight.codes().flatten(1)


def symmetric(weight: PackedWeight) -> Optional[PackedWeight]:
    """The same numbers as codes that stand for themselves times a scale, of as few bits as hold them.

    Scales may be negative, and the rotation stays. None: the numbers are no integers of 8 bits.
    """
    if type(weight.grid) in (Grid, Signed):
        return replace(weight, grid=Grid(weight.bits))
    if not weight.grid.has_integers:
        return None
    integers, scales = weight.integers()
    ends = torch.stack(integers.aminmax()).tolist()
    fitting = [bits for bits in BITS if Grid(bits).low <= ends[0] and ends[1] <= Grid(bits).high]
    if not fitting:
        return None
    packed = pack(integers.to(torch.int8).flatten(1), fitting[0])
    return replace(weight, packed=packed, scales=scales, grid=Grid(fitting[0]), zeros=None)


def misfit(weight: PackedWeight, block: Optional[int], most_bits: int = 8) -> str:
    """What a weight has that keeps its codes and scales out of a runtime, for `refuse`; empty: it fits.

    Args:
        block: how many consecutive weights of a row share a scale in the runtime; None: all of a row
        most_bits: what a code may have at most there
    """
    granularity, plain = weight.granularity, symmetric(weight)
    if weight.rotation != Rotation():
        return "inputs that are rotated"
    if plain is None:
        return f"codes of {weight.bits} bits on the grid {grid_name(type(weight.grid))}, which 8 bits do not hold"
    if plain.bits > most_bits:
        return f"codes of {plain.bits} bits, where {most_bits} are the most"
    if isinstance(granularity, PerColumn):
        return "a scale for each column"
    if isinstance(granularity, PerGroup):
        size, length = granularity.group_size, weight.matrix_shape[1]
        if size < length and (block is None or size % block):
            return f"a scale for each {size} weights of a row, where the runtime has one for {block or 'all of it'}"
    return ""


def block_scales(weight: PackedWeight, block: Optional[int] = None) -> Tensor:
    """The scales, float32, (channels, blocks): one for each `block` weights of a row, or for the whole row.

    A scale that more weights share is repeated. The weight must fit (see `misfit`).
    """
    return in_blocks(weight, weight.wide_scales.float(), block)


def in_blocks(weight: PackedWeight, numbers: Tensor, block: Optional[int] = None) -> Tensor:
    """Numbers that a weight has for each group, (groups,), as `block_scales` gives its scales."""
    channels, length = code_matrix(weight).shape
    count = -(-length // block) if block else 1
    if isinstance(weight.granularity, PerTensor):
        return numbers.expand(channels, count).contiguous()
    rows = numbers.view(channels, -1)
    if rows.shape[1] == 1:
        return rows.expand(channels, count).contiguous()
    assert isinstance(weight.granularity, PerGroup)
    size = weight.granularity.group_size
    return rows.repeat_interleave(size // block, dim=1)[:, :count].contiguous()
