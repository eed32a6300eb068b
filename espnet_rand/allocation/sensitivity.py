"""How much the loss minds fewer bits, weight by weight: measured, and estimated from the curvature."""

from typing import Callable, Dict, Iterable, List, Mapping, Sequence

import torch
from torch import Tensor, nn

from espnet_rand.allocation.solver import Table
from espnet_rand.layers import NamedWeight, disabled, evaluating_at, quantized_weights
from espnet_rand.layers.clock import telling
from espnet_rand.options import OptionError


def candidates(model: nn.Module, bits: Sequence[int]) -> Dict[str, List[int]]:
    """The numbers of bits that each quantized weight may get: `bits`, or the only one that it can have.

    Weights whose bits `overrides` fixed keep them, and so do learned step sizes.

    Raises:
        OptionError: no weight has a choice
    """
    found = {}
    for name, weight in quantized_weights(model).items():
        fixed = weight.fixed or weight.quantizer.scale.tied
        found[name] = [weight.quantizer.precision.highest] if fixed else sorted(set(bits))
    if all(len(choices) == 1 for choices in found.values()):
        raise OptionError(f"there is nothing to choose: all {len(found)} weights have one possible number of bits")
    return found


def measured(
    model: nn.Module,
    loss: Callable[[], float],
    choices: Mapping[str, Sequence[int]],
    follow: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Table:
    """The change of the loss when one weight alone goes to b bits, and the others have the most that they may.

    At fewer bits it is never less than at more: where the data say so, it is taken for chance. (A choice of the least
    sum would pick just those weights.)

    Args:
        model: quantized, in evaluation mode
        loss: of the model as it stands, on some data
        choices: from `candidates`
        follow: is given the names, and passes them on: shows the progress
    """
    weights = quantized_weights(model)
    changes: Table = {}
    with evaluating_at(model, {name: max(bits) for name, bits in choices.items()}):
        reference = loss()
        for name in follow(choices):
            highest, *fewer = sorted(choices[name], reverse=True)
            changes[name] = {highest: 0.0}
            for bits in fewer:
                with telling(bits={weights[name].quantized: bits}):
                    changes[name][bits] = max(loss() - reference, *changes[name].values())
    return changes


def curvature(
    model: nn.Module, add_gradients: Callable[[], None], choices: Mapping[str, Sequence[int]], probes: int = 8
) -> Table:
    """The same, estimated from `2 probes` gradients for all weights: tr(H) s^2 / 24, what noise of steps s adds.

    For each group that shares a step size s, H the loss's matrix of second derivatives with respect to its float
    weights. Its trace is Hutchinson's estimate, the mean of z'Hz over random signs z (Hutchinson 1989), with Hz from
    the difference of the gradients on both sides, so that losses without second derivatives (CTC's) will do. The steps
    to the sides are those of the highest number of bits / sqrt(12), the standard deviation of its noise.

    Args:
        model: quantized, in evaluation mode; the float weights are looked at
        add_gradients: adds those of the loss to the parameters' `grad`
        choices: from `candidates`
        probes: random signs for all weights, drawn from a seed of their own
    """
    weights = quantized_weights(model)
    steps = {n: {b: w.step_sizes(b) for b in choices[n]} for n, w in weights.items()}
    sides = {n: w.quantized.unrows(w.spread(steps[n][max(choices[n])])) / 12**0.5 for n, w in weights.items()}
    products = {name: torch.zeros_like(side) for name, side in sides.items()}
    generator = torch.Generator().manual_seed(0)
    parameters = {name: weight.parameter for name, weight in weights.items()}
    originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with disabled(model), torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no gradient in evaluation
            for _ in range(probes):
                signs = {n: _signs(side, generator) for n, side in sides.items()}
                for direction in (1, -1):
                    _move(parameters, originals, {n: direction * signs[n] * sides[n] for n in sides})
                    add_gradients()
                    for name, parameter in parameters.items():
                        if parameter.grad is not None:
                            products[name] += direction * signs[name] * parameter.grad * sides[name] / (2 * probes)
                        parameter.grad = None
    finally:
        _move(parameters, originals, {})
        for parameter, required in before.items():
            parameter.requires_grad_(required)
    return {name: _changes(weight, steps[name], products[name]) for name, weight in weights.items()}


def _changes(weight: NamedWeight, steps: Mapping[int, Tensor], products: Tensor) -> Dict[int, float]:
    """The change of the loss from the most bits to others: half of a group's z'Hz, at s / sqrt(12), is tr(H) s^2 / 24.

    Args:
        steps: by bits
        products: the numbers whose sum over a group is its z'Hz, in the weight's shape
    """
    groups = weight.quantizer.granularity.split(weight.quantized.rows(products)).sum(1) / 2
    ratios = {bits: (s / steps[max(steps)]).square() for bits, s in steps.items()}
    return {bits: max(0.0, (groups * (ratio - 1)).sum().item()) for bits, ratio in ratios.items()}


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)


@torch.no_grad()
def _move(parameters: Mapping[str, Tensor], originals: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(originals[name] + by[name] if name in by else originals[name])
