"""The granularity: which weights share a scale. It splits a weight into (groups, members), and joins it again.

Weights come with their output channels first: (channels, ...). Layers that store
them otherwise (transposed convolutions) reorder before they call.
"""

from dataclasses import dataclass
from typing import Dict, Tuple, Type, Union

import torch
from torch import Tensor

from espnet_rand.options import Options, integer, option, plain
from espnet_rand.quantizers.grid import Grid, Steps


@dataclass(frozen=True)
class Granularity(Options):
    """Splits a weight into groups that each have one scale."""

    @property
    def name(self) -> str:
        """The name in letters and digits: tensor, channel, group64, column."""
        return plain(str(self))

    def split(self, weight: Tensor) -> Tensor:
        """Split a weight, (channels, ...), into (groups, members); zeros fill up short groups."""
        raise NotImplementedError

    def join(self, grouped: Tensor, shape: torch.Size) -> Tensor:
        """Join (groups, members) to a weight of `shape`; undoes `split`."""
        return grouped.reshape(shape)

    def of_channels(self, numbers: Tensor, channels: int, some: Tensor) -> Tensor:
        """Select the numbers of some channels' groups.

        Args:
            numbers: one for each group of the weight, (groups,)
            channels: how many the weight has
            some: indices of the channels that are wanted, (n,)
        """
        return numbers.view(channels, -1).index_select(0, some).reshape(-1)

    def decoded(self, codes: Tensor, grid: Grid, steps: Steps) -> Tensor:
        """The numbers that codes, (channels, ...), stand for by steps, (groups,), in the scales' dtype."""
        grouped = self.split(grid.levels(codes)).to(steps.scales.dtype, copy=True)
        if steps.zeros is not None:
            grouped.sub_(steps.zeros.unsqueeze(1))
        return self.join(grouped.mul_(steps.scales.unsqueeze(1)), codes.shape)

    def members(self, weight: Tensor) -> Union[int, Tensor]:
        """The number of weights in a group: one for all, or (groups, 1) where they differ."""
        raise NotImplementedError

    def groups(self, weight: Tensor) -> int:
        """The number of groups, which is the number of scales."""
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

    def of_channels(self, numbers: Tensor, channels: int, some: Tensor) -> Tensor:
        return numbers


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
    """One scale for each `group_size` consecutive input weights of a channel (sub-channel quantization).

    The last group of a channel is shorter where `group_size` does not divide its length.
    """

    group_size: int = option(64, integer(1))

    @property
    def name(self) -> str:
        return f"group{self.group_size}"

    def _layout(self, weight: Tensor) -> Tuple[int, int, int]:
        """The length of a channel, the size of a group, and the number of groups in a channel."""
        length = weight.numel() // weight.shape[0]
        size = min(self.group_size, length)
        return length, size, -(-length // size)

    def split(self, weight: Tensor) -> Tensor:
        length, size, count = self._layout(weight)
        matrix = weight.reshape(weight.shape[0], length)
        if length != size * count:
            matrix = torch.nn.functional.pad(matrix, (0, size * count - length))
        return matrix.reshape(-1, size)

    def join(self, grouped: Tensor, shape: torch.Size) -> Tensor:
        length = shape.numel() // shape[0]
        return grouped.reshape(shape[0], -1)[:, :length].reshape(shape)

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
    """One scale for each input, which all channels share.

    An embedding's channels are its entries: it gets a scale for each dimension of what a lookup puts out.
    """

    name = "column"

    def split(self, weight: Tensor) -> Tensor:
        return weight.reshape(weight.shape[0], -1).t().contiguous()

    def join(self, grouped: Tensor, shape: torch.Size) -> Tensor:
        return grouped.t().contiguous().reshape(shape)

    def members(self, weight: Tensor) -> int:
        return weight.shape[0]

    def groups(self, weight: Tensor) -> int:
        return weight.numel() // weight.shape[0]

    def of_channels(self, numbers: Tensor, channels: int, some: Tensor) -> Tensor:
        return numbers


GRANULARITIES: Dict[str, Type[Granularity]] = {
    "tensor": PerTensor,
    "channel": PerChannel,
    "group": PerGroup,
    "column": PerColumn,
}
