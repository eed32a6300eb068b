"""Estimators between noise and straight-through, and a grid: the comparison tries them, the package has none."""

from dataclasses import dataclass, replace
from typing import Type

import torch
from torch import nn

from espnet_rand.layers import quantized_weights
from espnet_rand.options import boolean, option
from espnet_rand.quantizers import Grid, Noise, StraightThrough
from espnet_rand.quantizers.estimator import Estimator


@dataclass(frozen=True)
class RoundedHalf(Estimator):
    """Rounds a random half of the weights in each forward, straight-through; the others have noise, or are float.

    Without noise it is Quant-Noise (arXiv 2004.07320, Section 3.1) on single weights, with a rate of 1/2.
    """

    noise: bool = option(True, boolean)

    def __call__(self, w, s, grid, generator=None, z=None):
        rounded = torch.empty_like(w).bernoulli_(0.5, generator=generator).bool()
        others = Noise()(w, s, grid, generator, z) if self.noise else w
        return torch.where(rounded, StraightThrough()(w, s, grid, z=z), others)


def set_estimator(model: nn.Module, estimator: Estimator) -> None:
    """Set the estimator of all weights of a quantized model, from the next forward on."""
    for weight in quantized_weights(model).values():
        weight.quantized.quantizer = replace(weight.quantizer, estimator=estimator)


class Ternary(Grid):
    """As many codes below 0 as above, -Q ... Q: with 2 bits -1, 0 and 1, which take 1.6 bits (five in a byte)."""

    @property
    def low(self) -> int:
        return -self.high


def set_grid(model: nn.Module, grid: Type[Grid]) -> None:
    """Set the grid of all weights of a quantized model; learned scales that were not trained start anew for it."""
    for weight in quantized_weights(model).values():
        weight.quantized.quantizer = replace(weight.quantizer, grid=grid)
