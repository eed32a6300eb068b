"""The sensitivity of the loss to fewer bits, weight by weight: measured, and estimated from the curvature."""

from typing import Callable, Dict, Iterable, List, Mapping, Sequence

import torch
from torch import Tensor, nn

from espnet_rand.allocation.solver import Table
from espnet_rand.layers import NamedWeight, disabled, evaluating_at, quantized_weights
from espnet_rand.layers.computation import telling
from espnet_rand.options import OptionError


def candidates(model: nn.Module, bits: Sequence[int]) -> Dict[str, List[int]]:
    """The numbers of bits that each quantized weight may get: `bits`, or the only number that it can have.

    A weight keeps bits that `overrides` fixed, or that its learned step sizes belong to.

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
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Table:
    """Measure the change of the loss when one weight alone goes to fewer bits, and the others have the most they may.

    A change at fewer bits is never less than one at more: where the data say so, it is taken for chance. (A choice of
    the least sum would pick just those weights.)

    Args:
        model: quantized, in evaluation mode
        loss: gives the loss of the model as it stands, on some data
        choices: from `candidates`
        progress: gets the names of weights and passes them on, to show how far it is
    """
    weights = quantized_weights(model)
    changes: Table = {}
    with evaluating_at(model, {name: max(bits) for name, bits in choices.items()}):
        reference = loss()
        for name in progress(choices):
            highest, *fewer = sorted(choices[name], reverse=True)
            changes[name] = {highest: 0.0}
            for bits in fewer:
                with telling(bits={weights[name].quantized: bits}):
                    changes[name][bits] = max(loss() - reference, *changes[name].values())
    return changes


def curvature(
    model: nn.Module, add_gradients: Callable[[], None], choices: Mapping[str, Sequence[int]], probes: int = 8
) -> Table:
    """Estimate what `measured` measures, for all weights from `2 probes` gradients: tr(H) s^2 / 24 for each group.

    That is what noise of steps s adds to the loss, H its matrix of second derivatives with respect to the float weights
    of a group. The trace is Hutchinson's estimate, the mean of z'Hz over random signs z (Hutchinson 1989). Hz is the
    difference of the gradients on both sides, so that losses without second derivatives (CTC's) will do. A step to a
    side is the step size at the most bits / sqrt(12), the standard deviation of its noise.

    Args:
        model: quantized, in evaluation mode; the float weights are looked at
        add_gradients: adds the gradients of the loss to the parameters' `grad`
        choices: from `candidates`
        probes: number of draws of random signs for all weights, from a seed of their own
    """
    weights = quantized_weights(model)
    steps = {n: {b: w.step_sizes(b) for b in choices[n]} for n, w in weights.items()}
    sides = {n: w.spread(steps[n][max(choices[n])]) / 12**0.5 for n, w in weights.items()}
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
                    _move(
                        parameters,
                        originals,
                        {n: w.unrotated(direction * signs[n] * sides[n]) for n, w in weights.items()},
                    )
                    add_gradients()
                    for name, parameter in parameters.items():
                        if parameter.grad is not None:
                            slope = weights[name].rotated(parameter.grad)
                            products[name] += direction * signs[name] * slope * sides[name] / (2 * probes)
                        parameter.grad = None
    finally:
        _move(parameters, originals, {})
        for parameter, required in before.items():
            parameter.requires_grad_(required)
    return {name: _changes(weight, steps[name], products[name]) for name, weight in weights.items()}


def _changes(weight: NamedWeight, steps: Mapping[int, Tensor], products: Tensor) -> Dict[int, float]:
    """The change of the loss from the most bits to others, by bits.

    Half of a group's z'Hz, at steps s / sqrt(12), is tr(H) s^2 / 24.

    Args:
        steps: step sizes, (groups,), by bits
        products: the numbers whose sum over a group is its z'Hz, as the rotated weight
    """
    groups = weight.quantizer.granularity.split(products).sum(1) / 2
    ratios = {bits: (s / steps[max(steps)]).square() for bits, s in steps.items()}
    return {bits: max(0.0, (groups * (ratio - 1)).sum().item()) for bits, ratio in ratios.items()}


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw random signs, 1 or -1, in the shape of a tensor."""
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)


@torch.no_grad()
def _move(parameters: Mapping[str, Tensor], originals: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> None:
    """Set parameters to their originals, moved by what `by` has for them."""
    for name, parameter in parameters.items():
        parameter.copy_(originals[name] + by[name] if name in by else originals[name])
