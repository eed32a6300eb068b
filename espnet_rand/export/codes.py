"""The codes and scales of a packed weight, in the blocks that runtimes have."""

import math
from typing import Optional

from torch import Tensor

from espnet_rand.errors import UserError
from espnet_rand.packing import PackedWeight
from espnet_rand.quantizers import Grid, PerColumn, PerGroup, PerTensor


class ExportError(UserError, ValueError):
    """The model cannot be written for a runtime; the message names the weight or layer, and the remedy."""


def code_matrix(weight: PackedWeight) -> Tensor:
    """The codes, int8, (channels, length): a row for each output channel."""
    return weight.codes().flatten(1)


def misfit(weight: PackedWeight, block: Optional[int], most_bits: int = 8) -> str:
    """Why a runtime cannot hold the codes of a weight with their scales; empty if it can.

    Args:
        block: how many consecutive weights of a row share a scale in the runtime; None: all of a row
        most_bits: what a code may have at most there
    """
    granularity = weight.granularity
    if type(weight.grid) is not Grid:
        return "its grid is not symmetric"
    if weight.bits > most_bits:
        return f"its codes have {weight.bits} bits, of {most_bits} at most"
    if isinstance(granularity, PerColumn):
        return "it has a scale for each column"
    if isinstance(granularity, PerGroup):
        size, length = granularity.group_size, math.prod(weight.rows[1:])
        if size < length and (block is None or size % block):
            return f"it has a scale for each {size} weights of a row, which are no blocks of {block or length}"
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
