"""Calibration layer after layer, with inputs from what is quantized already; the package's takes the float model's."""

import copy
import functools
import itertools
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Sequence

import torch
from torch import Tensor, nn

from espnet_rand.calibration.calibrate import _calibrated, check_steps
from espnet_rand.layers import NamedWeight, disabled, quantized_weights
from espnet_rand.layers.computation import telling


@torch.no_grad()
def calibrate_in_order(model: nn.Module, forward: Callable[[nn.Module], Any], correction: float = 0.0) -> None:
    """Calibrate a quantized model part after part (an attention, the two layers behind it), in place.

    With a correction each weight W first becomes W + correction * W (x - y) y' (y y')^-1, x its inputs in the float
    model, y those in the one quantized so far: QEP (arXiv 2504.09629), whose propagation strength it is.

    Args:
        model: quantized, in evaluation mode, its weights in the order of computation
        forward: runs a model on data
    """
    check_steps(model)
    original, weights = copy.deepcopy(model), quantized_weights(model)
    theirs = quantized_weights(original)
    left = {weight.quantized for weight in weights.values()}
    for _, part in itertools.groupby(weights, lambda name: name.rsplit(".", 2)[0]):
        names = list(part)
        with telling(off=left):
            given = _inputs([weights[name] for name in names], functools.partial(forward, model))
        wanted = given
        if correction:
            with disabled(original):
                wanted = _inputs([theirs[name] for name in names], functools.partial(forward, original))
        for name, x, y in zip(names, wanted, given):
            weight, moments = weights[name], {}
            if y:
                count = sum(map(len, y))
                moments[weight.parameter] = sum((b.T @ b).double() for b in y) / count
                difference = sum(((a - b).T @ b).double() for a, b in zip(x, y)) / count
                _correct(weight, correction * difference, moments[weight.parameter])
            _calibrated(name, weight, moments)
            left.discard(weight.quantized)


def _correct(weight: NamedWeight, difference: Tensor, h: Tensor, damping: float = 0.01) -> None:
    """Let a weight, (channels, n), make up for a difference of its inputs, in place."""
    damped = h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype, device=h.device)
    whole = weight.channels_first
    change = whole.flatten(1).double() @ torch.linalg.solve(damped, difference, left=False)
    weight.parameter.copy_(weight.quantized.own_layout(whole + change.view_as(whole).to(whole.dtype)))


def _inputs(weights: Sequence[NamedWeight], forward: Callable[[], Any]) -> List[List[Tensor]]:
    """The inputs of each weight's layer, call by call, as (positions, n); none where it multiplies no matrix."""
    seen: Dict[int, List[Tensor]] = {id(weight.layer): [] for weight in weights}

    def see(layer, inputs):
        columns = layer.columns(inputs[0])
        if columns is not None:
            seen[id(layer)].append(columns.float())

    with _hooked([weight.layer for weight in weights], see):
        forward()
    return [seen[id(weight.layer)] for weight in weights]


@contextmanager
def _hooked(layers: Sequence[nn.Module], hook: Callable) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
