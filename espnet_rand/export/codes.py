"""The codes and scales of a packed weight, in the blocks that runtimes have."""

import math
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from torch import Tensor

from espnet_rand.errors import UserError, few
from espnet_rand.packing import PackedWeight
from espnet_rand.quantizers import Grid, PerColumn, PerGroup, PerTensor


class ExportError(UserError, ValueError):
    """The model cannot be written for a runtime; the message names the weight or layer, and the remedy."""


@dataclass(frozen=True)
class Exported:
    """What a runtime's file holds, for people to read.

    Attributes:
        format: what the codes are stored as there
        scale_error: root mean square of what rounding the scales changes in the weights, relative to theirs
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
    """The root mean square of what other scales change in weights, relative to that of the weights.

    Args:
        weights: each with its scales in blocks, (channels, blocks), and those that stand in for them
    """
    changed = total = 0.0
    for weight, scales, rounded in weights:
        codes = code_matrix(weight)
        size = -(-codes.shape[1] // scales.shape[1])
        squares = codes.double().square().view(len(codes), -1, size).sum(2)
        changed += float((squares * (rounded.double() - scales.double()).square()).sum())
        total += float((squares * scales.double().square()).sum())
    return math.sqrt(changed / total) if total else 0.0


def code_matrix(weight: PackedWeight) -> Tensor:
    """The codes, int8, (channels, length): a row for each output channel."""
    return weight.codes().flatten(1)


def misfit(weight: PackedWeight, block: Optional[int], most_bits: int = 8) -> str:
    """What a weight has that keeps its codes and scales out of a runtime, for `refuse`; empty: it fits.

    Args:
        block: how many consecutive weights of a row share a scale in the runtime; None: all of a row
        most_bits: what a code may have at most there
    """
    granularity = weight.granularity
    if type(weight.grid) is not Grid:
        return "a grid that is not symmetric"
    if weight.bits > most_bits:
        return f"codes of {weight.bits} bits, where {most_bits} are the most"
    if isinstance(granularity, PerColumn):
        return "a scale for each column"
    if isinstance(granularity, PerGroup):
        size, length = granularity.group_size, math.prod(weight.rows[1:])
        if size < length and (block is None or size % block):
            return f"a scale for each {size} weights of a row, where the runtime has one for {block or 'all of it'}"
    return ""


def block_scales(weight: PackedWeight, block: Optional[int] = None) -> Tensor:
    """The scales, float32, (channels, blocks): one for each `block` weights of a row, or for the whole row.

    A scale that more weights share is repeated. The weight must fit (see `misfit`).
    """
    channels, length = code_matrix(weight).shape
    count = -(-length // block) if block else 1
    scales = weight.wide_scales.float()
    if isinstance(weight.granularity, PerTensor):
        return scales.expand(channels, count).contiguous()
    rows = scales.view(channels, -1)
    if rows.shape[1] == 1:
        return rows.expand(channels, count).contiguous()
    assert isinstance(weight.granularity, PerGroup)
    size = weight.granularity.group_size
    return rows.repeat_interleave(size // block, dim=1)[:, :count].contiguous()
