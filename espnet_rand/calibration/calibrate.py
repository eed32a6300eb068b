"""Calibrates a quantized model: moves each float weight to where it rounds to the code that the data choose."""

from dataclasses import dataclass
from typing import Callable, Dict, Iterable, List

import torch
from torch import Tensor, nn

from espnet_rand.calibration.rounding import compensated
from espnet_rand.errors import QuantizationError
from espnet_rand.layers import disabled, quantized_layers, quantized_weights
from espnet_rand.quantizers import largest_code

#: How near to the middle between two codes, in steps, a weight may stay.
_MARGIN = 0.02


@dataclass(frozen=True)
class Calibration:
    """What became of one weight.

    Attributes:
        name: of the weight
        error_before, error_after: squared error of the layer's outputs, in parts of their sum of squares, over the
            inputs seen, without the bias; nan for a weight that stayed as it was
        reason: why it stayed, or empty
    """

    name: str
    error_before: float = float("nan")
    error_after: float = float("nan")
    reason: str = ""


@torch.no_grad()
def calibrate(
    model: nn.Module,
    forward: Callable[[], object],
    follow: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> List[Calibration]:
    """Choose the steps and the codes of a quantized model by what its layers' outputs mind, in place.

    The steps by clip search, in which a weight's squared error counts as much as its input's mean square; then the
    codes (`compensated`). A weight that rounds to another code than the chosen one moves to the nearest number that
    rounds to it, and the learned scales are set to those of the steps. So the model evaluates with the chosen codes,
    and a training begins with them.

    Args:
        model: quantized, in evaluation mode; linear layers and convolutions (of one group) are calibrated
        forward: runs the model on data
        follow: is given the names, and passes them on: shows the progress

    Raises:
        QuantizationError: a weight whose step size is no parameter, but follows the weights; no layer could be
            calibrated
    """
    weights = quantized_weights(model)
    for name, weight in weights.items():
        if not weight.quantized.quantizer.scale.learned:
            raise QuantizationError(
                f"{name}: its step sizes ({weight.quantized.quantizer.scale}) are computed from the weights, which are "
                "to move: take learned ones, `rand` with mode: 3 and init: clip, or `lsc`"
            )
    with disabled(model):
        moments = _moments(model, forward)
    done = []
    for name in follow(weights):
        weight = weights[name]
        parameter = weight.layer._parameters[weight.name]
        if weight.layer.source(weight.name) is not parameter:
            done.append(Calibration(name, reason="an adapter adds to it"))
            continue
        if parameter not in moments:
            done.append(Calibration(name, reason="no matrix that its layer multiplies inputs with, or none was seen"))
            continue
        quantized, h = weight.quantized, moments[parameter]
        if not h.isfinite().all():
            raise QuantizationError(f"{name}: its layer's inputs are not finite: calibrate with other data")
        rows = quantized.rows(parameter.detach()).float()
        w, narrow = rows.flatten(1), h.to(rows.dtype)
        energy = max(_energy(w, narrow), 1e-30)
        codes, scales = quantized.encode(weight.layer, weight.name)
        before = _energy(quantized.quantizer.decode(codes, scales, rows.dtype).flatten(1) - w, narrow) / energy
        importance = narrow.diagonal().expand_as(w).view_as(rows)
        scales = quantized.quantizer.searched(rows, importance, quantized.bits)
        s = quantized.quantizer.spread(scales, rows).flatten(1)
        q = largest_code(quantized.bits)
        chosen = compensated(w, s, q, h)
        after = _energy(s * chosen - w, narrow) / energy
        done.append(Calibration(name, before, after))
        quantized.place(weight.layer, weight.name, _nearest(w, s, q, chosen).view_as(rows), scales)
    if all(calibration.reason for calibration in done):
        raise QuantizationError(f"no weight of {type(model).__name__} could be calibrated: {done[0].reason}")
    return done


def _nearest(w: Tensor, s: Tensor, q: int, codes: Tensor) -> Tensor:
    """The nearest weights that round to the codes."""
    room = 0.5 - _MARGIN
    low = torch.where(codes <= -q - 1, -torch.inf, codes - room)
    high = torch.where(codes >= q, torch.inf, codes + room)
    return torch.minimum(torch.maximum(w / s, low), high) * s


def _energy(w: Tensor, h: Tensor) -> float:
    """tr(w h w')."""
    return ((w @ h) * w).sum().item()


def _moments(model: nn.Module, forward: Callable[[], object]) -> Dict[nn.Parameter, Tensor]:
    """Mean of x x' over the inputs x of each weight, (n, n), in float64; of all layers that share it."""
    sums: Dict[nn.Parameter, Tensor] = {}
    counts: Dict[nn.Parameter, int] = {}

    def see(layer, inputs):
        columns = layer.columns(inputs[0]) if inputs else None
        if columns is not None:
            columns = columns.float()
            parameter = layer._parameters["weight"]
            sums[parameter] = sums.get(parameter, 0) + (columns.T @ columns).double()
            counts[parameter] = counts.get(parameter, 0) + len(columns)

    hooks = [layer.register_forward_pre_hook(see) for _, layer in quantized_layers(model)]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return {parameter: total / max(counts[parameter], 1) for parameter, total in sums.items()}
