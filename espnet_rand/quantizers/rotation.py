"""The rotation: turns the inputs of a weight before its scales are made, so that no input is an outlier.

A new rotation is one class here and one line in `ROTATIONS`.
"""

import functools
from dataclasses import dataclass
from typing import Dict

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor

_LARGEST = 128


@dataclass(frozen=True)
class Rotation:
    """An orthogonal map of the inputs of weights, (channels, inputs, ...), its own inverse. This one does nothing.

    A layer with the weight w has the same outputs from inputs x as one with the rotated weight from rotated inputs.
    """

    def __call__(self, weight: Tensor) -> Tensor:
        """Rotate the axis 1 of a weight, differentiably."""
        return weight

    def back(self, weight: Tensor) -> Tensor:
        """Undo it."""
        return self(weight)

    def inputs(self, x: Tensor, axis: int, count: int) -> Tensor:
        """Rotate what a layer multiplies its weight with.

        Args:
            axis: of x, whose length is `count` or a multiple of it (for the groups of a convolution)
            count: the number of inputs of the weight
        """
        return x


class Hadamard(Rotation):
    """A block-diagonal Hadamard matrix: each block of inputs becomes its sums with signs (QuaRot, arXiv 2404.00456).

    A block has the largest power of two that divides the number of inputs, at most 128. Without such a power above 1
    the inputs stay as they are.
    """

    def __call__(self, weight):
        return self.inputs(weight, 1, weight.shape[1]) if weight.dim() > 1 else weight

    def inputs(self, x, axis, count):
        size = min(count & -count, _LARGEST)
        if size < 2:
            return x
        blocks = x.movedim(axis, -1).unflatten(-1, (-1, size))
        with torch.autocast(x.device.type, enabled=False):  # the weight must be the same in each block of a program
            return (blocks @ torch.from_numpy(_matrix(size)).to(x)).flatten(-2).movedim(-1, axis)


@functools.cache
def _matrix(size: int) -> np.ndarray:
    """The Hadamard matrix of a power of two, (size, size): symmetric, and divided so that it is orthogonal."""
    return hadamard(size) * size**-0.5


ROTATIONS: Dict[str, Rotation] = {"none": Rotation(), "hadamard": Hadamard()}


def rotation_name(rotation: Rotation) -> str:
    """A rotation's name in `ROTATIONS`."""
    return next(name for name, known in ROTATIONS.items() if known == rotation)
