"""Calibration layer after layer, with inputs from what is quantized already; the package's takes the float model's."""

import functools
import itertools
from typing import Any, Callable, Dict, List, Mapping

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
    weights = quantized_weights(model)
    with disabled(model):
        wanted = _inputs(weights, functools.partial(forward, model)) if correction else {}
    left = {weight.quantized for weight in weights.values()}
    for _, names in itertools.groupby(list(weights), lambda name: name.rsplit(".", 2)[0]):
        part = {name: weights[name] for name in names}
        with telling(off=left):
            given = _inputs(part, functools.partial(forward, model))
        for name, weight in part.items():
            y, x = given[name], wanted.pop(name, given[name])
            moments = {}
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


def _inputs(weights: Mapping[str, NamedWeight], forward: Callable[[], Any]) -> Dict[str, List[Tensor]]:
    """The inputs of each weight's layer, call by call, as (positions, n); none where it multiplies no matrix."""
    seen: Dict[str, List[Tensor]] = {name: [] for name in weights}

    def see(name, layer, inputs):
        columns = layer.columns(inputs[0])
        if columns is not None:
            seen[name].append(columns.float())

    hooks = [weight.layer.register_forward_pre_hook(functools.partial(see, name)) for name, weight in weights.items()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return seen
