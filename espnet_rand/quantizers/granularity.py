"""Which weights share a scale: a weight seen as (groups, members), and back.

Weights come with their output channels first: (channels, ...). Layers that store
them otherwise (transposed convolutions) reorder before they call.
"""

from dataclasses import dataclass
from typing import Dict, Type, Union

import torch
from torch import Tensor

from espnet_rand.options import Options, integer, option, plain


@dataclass(frozen=True)
class Granularity(Options):
    """How a weight falls into groups that each have one scale."""

    @property
    def name(self) -> str:
        """In letters and digits: tensor, channel, group64, column."""
        return plain(str(self))

    def split(self, weight: Tensor) -> Tensor:
        """(channels, ...) -> (groups, members); short groups are filled up with zeros."""
        raise NotImplementedError

    def join(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """(groups, members) -> a weight of `shape`; undoes `split`."""
        return matrix.reshape(shape)

    def scales_of(self, scales: Tensor, channels: int, some: Tensor) -> Tensor:
        """Of the scales of a weight with so many channels, (groups,), those of channels `some`, indices (n,)."""
        return scales.view(channels, -1).index_select(0, some).reshape(-1)

    def scaled(self, numbers: Tensor, scales: Tensor) -> Tensor:
        """Numbers (channels, ...) times their scales, (groups,), in the dtype of these. (Floats may be overwritten.)"""
        matrix = self.split(numbers).to(scales.dtype)
        return self.join(matrix.mul_(scales.unsqueeze(1)), numbers.shape)

    def members(self, weight: Tensor) -> Union[int, Tensor]:
        """Number of weights in a group: one for all, or (groups, 1) where they differ."""
        raise NotImplementedError

    def groups(self, weight: Tensor) -> int:
        """Number of groups, which is the number of scales."""
        raise NotImplementedError


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One scale for the whole weight."""

    name = "tensor"

    def split(self, weight: Tensor) -> Tensor:
        return weight.reshape(1, -1)

    def members(self, weight: Tensor) -> int:
        return weight.numel()

    def groups(self, weight: Tensor) -> int:
        return 1

    def scales_of(self, scales: Tensor, channels: int, some: Tensor) -> Tensor:
        return scales


@dataclass(frozen=True)
class PerChannel(Granularity):
    """One scale for each output channel."""

    name = "channel"

    def split(self, weight: Tensor) -> Tensor:
        return weight.reshape(weight.shape[0], -1)

    def members(self, weight: Tensor) -> int:
        return weight.numel() // weight.shape[0]

    def groups(self, weight: Tensor) -> int:
        return weight.shape[0]


@dataclass(frozen=True)
class PerGroup(Granularity):
    """Sub-channel: one scale for each `group_size` consecutive input weights of a channel.

    The last group of a channel is shorter where `group_size` does not divide its length.
    """

    group_size: int = option(64, integer(1))

    @property
    def name(self) -> str:
        return f"group{self.group_size}"

    def _layout(self, weight: Tensor):
        length = weight.numel() // weight.shape[0]
        size = min(self.group_size, length)
        return length, size, -(-length // size)

    def split(self, weight: Tensor) -> Tensor:
        length, size, count = self._layout(weight)
        rows = weight.reshape(weight.shape[0], length)
        if length != size * count:
            rows = torch.nn.functional.pad(rows, (0, size * count - length))
        return rows.reshape(-1, size)

    def join(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        length = shape.numel() // shape[0]
        return matrix.reshape(shape[0], -1)[:, :length].reshape(shape)

    def members(self, weight: Tensor) -> Union[int, Tensor]:
        length, size, count = self._layout(weight)
        if length == size * count:
            return size
        sizes = torch.full((count, 1), size, device=weight.device)
        sizes[-1] = length - size * (count - 1)
        return sizes.repeat(weight.shape[0], 1)

    def groups(self, weight: Tensor) -> int:
        return weight.shape[0] * self._layout(weight)[2]


@dataclass(frozen=True)
class PerColumn(Granularity):
    """One scale for each input of the channels, which all of them share.

    Of an embedding, whose channels are its entries, one for each dimension: what a lookup puts out.
    """

    name = "column"

    def split(self, weight: Tensor) -> Tensor:
        return weight.reshape(weight.shape[0], -1).t().contiguous()

    def join(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        return matrix.t().contiguous().reshape(shape)

    def members(self, weight: Tensor) -> int:
        return weight.shape[0]

    def groups(self, weight: Tensor) -> int:
        return weight.numel() // weight.shape[0]

    def scales_of(self, scales: Tensor, channels: int, some: Tensor) -> Tensor:
        return scales


GRANULARITIES: Dict[str, Type[Granularity]] = {
    "tensor": PerTensor,
    "channel": PerChannel,
    "group": PerGroup,
    "column": PerColumn,
}
