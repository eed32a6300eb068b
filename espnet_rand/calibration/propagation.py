"""Calibration layer after layer: each sees inputs from what is quantized already, and makes up for their error."""

import itertools
from contextlib import contextmanager
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Tuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from espnet_rand.calibration.inputs import inputs
from espnet_rand.layers import NamedWeight, disabled
from espnet_rand.layers.computation import telling

# the part of the inputs' error that a weight makes up for
_STRENGTH = 0.5
_DAMPING = 0.01


def in_order(
    model: nn.Module,
    weights: Mapping[str, NamedWeight],
    forward: Callable[[], object],
    progress: Callable[[Iterable[str]], Iterable[str]],
) -> Iterator[Tuple[str, Dict[Parameter, Tensor]]]:
    """Go through weights, which the caller calibrates one by one, and let each make up for the errors before it.

    A weight W becomes W + W (x - y) y' (y y')^-1 / 2, x its inputs in the float model, y those in the model whose
    earlier weights are calibrated: QEP (arXiv 2504.09629, with a propagation strength of 1/2). Weights of one module
    (an attention, the two layers behind it) see the same model.

    Args:
        weights: in the order of computation, as modules are as a rule
        progress: gets their names and passes them on

    Yields:
        a weight's name, and the mean of y y' by its parameter; empty where the layer multiplies no matrix
    """
    left = {weight.quantized for weight in weights.values()}
    originals = {weight.parameter: weight.parameter.detach().clone() for weight in weights.values()}
    for _, names in itertools.groupby(progress(weights), _module):
        first = next(names)
        part = [weights[name].parameter for name in weights if _module(name) == _module(first)]
        with disabled(model), _swapped(originals):
            wanted = inputs(model, part, forward)
        with telling(off=left):
            given = inputs(model, part, forward)
        for name in (first, *names):
            weight, found = weights[name], {}
            if y := given[weight.parameter]:
                found[weight.parameter] = h = _mean(y, y)
                errors = [x - y for x, y in zip(wanted[weight.parameter], y)]
                _make_up(weight, _STRENGTH * _mean(errors, y), h)
            yield name, found
            left.discard(weight.quantized)


@contextmanager
def _swapped(others: Mapping[Parameter, Tensor]) -> Iterator[None]:
    """Give parameters other numbers in a block."""
    own = {parameter: parameter.data for parameter in others}
    try:
        for parameter, other in others.items():
            parameter.data = other
        yield
    finally:
        for parameter, numbers in own.items():
            parameter.data = numbers


def _module(name: str) -> str:
    """The module that a weight's layer is in."""
    return name.rsplit(".", 2)[0]


def _mean(a: List[Tensor], b: List[Tensor]) -> Tensor:
    """The mean of a' b over all positions, (n, n), in float64."""
    total = torch.zeros(a[0].shape[1], b[0].shape[1], dtype=torch.float64, device=a[0].device)
    for x, y in zip(a, b):
        total += (x.T @ y).double()
    return total / sum(map(len, b))


def _make_up(weight: NamedWeight, error: Tensor, h: Tensor) -> None:
    """Change a float weight, in place, so that it makes up for an error of its inputs."""
    damped = h + _DAMPING * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype, device=h.device)
    whole = weight.channels_first
    change = whole.flatten(1).double() @ torch.linalg.solve(damped, error, left=False)
    weight.parameter.copy_(weight.quantized.own_layout(whole + change.view_as(whole).to(whole.dtype)))
