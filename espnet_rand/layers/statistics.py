"""Numbers that say how a quantized weight is rounded."""

from typing import Dict

import torch
from torch import Tensor

from espnet_rand.layers.weights import NamedWeight


def relative_error(rounded: Tensor, weight: Tensor) -> Tensor:
    """The squared error of a rounded weight, in parts of the weight's sum of squares, (), in float64; 0 for zeros."""
    rounded, weight = rounded.double(), weight.double()
    whole = weight.square().sum()
    return torch.where(whole == 0, 0.0, (rounded - weight).square().sum() / whole)


@torch.no_grad()
def rounding_statistics(weight: NamedWeight) -> Dict[str, float]:
    """How evaluation rounds a weight, in a few numbers, computed in float32 at least.

    Returns:
        rounding_error: the squared error of the rounded weight, in parts of the weight's sum of squares
        scale: the mean of its step sizes
        clipped: the share of its numbers that lie beyond the grid's ends, in [0, 1]
        and the mean of each number that its scale learns, by name: c of rand
    """
    wide = torch.promote_types(weight.source.dtype, torch.float32)
    quantizer, w = weight.quantizer, weight.channels_first.to(wide)
    codes, steps = weight.encode()
    error = relative_error(quantizer.decode(codes, steps, wide), w)
    scales, zeros = steps.each(lambda one: quantizer.spread(one, w))
    in_steps = quantizer.rotation(w) / scales + (0 if zeros is None else zeros)
    low, high = weight.grid.rounding_bounds
    clipped = ((in_steps < low) | (in_steps > high)).to(wide).mean()
    numbers = {"rounding_error": error, "scale": steps.scales.abs().mean(), "clipped": clipped}
    if weight.learned:
        weight.quantized.track(weight)
        numbers.update({name: each.mean() for name, each in quantizer.scale.shown(weight.scale.to(wide)).items()})
    return dict(zip(numbers, torch.stack([number.to(wide) for number in numbers.values()]).tolist()))
