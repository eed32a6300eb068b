"""Estimators between noise and straight-through that the comparison tries; the package does not have them."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from espnet_rand.layers import quantized_weights
from espnet_rand.options import boolean, option
from espnet_rand.quantizers import Noise, StraightThrough
from espnet_rand.quantizers.estimator import Estimator


@dataclass(frozen=True)
class RoundedHalf(Estimator):
    """Rounds a random half of the weights in each forward, straight-through; the others have noise, or are float.

    Without noise it is Quant-Noise (arXiv 2004.07320, Section 3.1) on single weights, with a rate of 1/2.
    """

    noise: bool = option(True, boolean)

    def __call__(self, w, s, grid, generator=None):
        rounded = torch.empty_like(w).bernoulli_(0.5, generator=generator).bool()
        others = Noise()(w, s, grid, generator) if self.noise else w
        return torch.where(rounded, StraightThrough()(w, s, grid), others)


def set_estimator(model: nn.Module, estimator: Estimator) -> None:
    """Set the estimator of all weights of a quantized model, from the next forward on."""
    for weight in quantized_weights(model).values():
        weight.quantized.quantizer = replace(weight.quantizer, estimator=estimator)
