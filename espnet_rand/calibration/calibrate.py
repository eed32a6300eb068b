"""Calibrates a quantized model: moves each float weight to where it rounds to the code that data choose."""

from dataclasses import dataclass
from typing import Callable, Iterable, List, Mapping, Optional

import torch
from torch import Tensor, nn

from espnet_rand.calibration.inputs import moments
from espnet_rand.calibration.propagation import in_order
from espnet_rand.calibration.rounding import compensated
from espnet_rand.errors import QuantizationError
from espnet_rand.layers import NamedWeight, disabled, quantized_weights
from espnet_rand.quantizers import Grid, Rotation

#: How near to the middle between two codes, in steps, a weight may stay.
_MARGIN = 0.02


@dataclass(frozen=True)
class Calibration:
    """The result of calibrating one weight.

    Attributes:
        name: the name of the weight
        error_before, error_after: squared error of the layer's outputs, in parts of their sum of squares, over the
            inputs seen, without the bias; nan for a weight that stayed as it was
        reason: the reason why it stayed, or empty
    """

    name: str
    error_before: float = float("nan")
    error_after: float = float("nan")
    reason: str = ""


@torch.no_grad()
def calibrate(
    model: nn.Module,
    forward: Callable[[], object],
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    propagate: bool = False,
) -> List[Calibration]:
    """Choose the steps and the codes of a quantized model by what its layers' outputs mind, in place.

    Clip search chooses the steps; in it a weight's squared error counts as much as its input's mean square. Then
    `compensated` chooses the codes. A weight that rounds to another code than the chosen one moves to the nearest
    number that rounds to it, and the learned scales are set to those of the steps. So the model evaluates with the
    chosen codes, and a training begins with them.

    Args:
        model: quantized, in evaluation mode; linear layers and convolutions (of one group) are calibrated
        forward: runs the model on data
        progress: gets the names of weights and passes them on, to show how far it is
        propagate: whether weights are calibrated in order, each with the inputs that the weights before it leave, and
            make up for their errors (see `in_order`). That runs the model twice for each module, and keeps its inputs

    Raises:
        QuantizationError: a weight's step size is no parameter, but computed from the weights; no layer could be
            calibrated
    """
    check_steps(model)
    weights = quantized_weights(model)
    if propagate:
        seen = in_order(model, weights, forward, progress)
    else:
        with disabled(model):
            all_of_them = moments(model, forward)
        seen = ((name, all_of_them) for name in progress(weights))
    done = [_calibrated(name, weights[name], some) for name, some in seen]
    if all(calibration.reason for calibration in done):
        raise QuantizationError(f"no weight of {type(model).__name__} could be calibrated: {done[0].reason}")
    return done


def check_steps(model: nn.Module) -> None:
    """Raises QuantizationError: a weight's step size is no parameter, but computed, or a weight has 16 bits."""
    for name, weight in quantized_weights(model).items():
        if weight.parameter.element_size() < 4:
            raise QuantizationError(
                f"{name}: weights of 16 bits can't be moved to where they round to the chosen codes. Fix: model.float()"
            )
        if not weight.learned:
            raise QuantizationError(
                f"{name}: its step sizes ({weight.quantizer.scale}) are computed from the weights, which are "
                "to move: take learned ones, `rand` with mode: 3 and init: clip, or `lsc`"
            )


def _calibrated(name: str, weight: NamedWeight, found: Mapping[nn.Parameter, Tensor]) -> Calibration:
    """Calibrate one weight. Raises QuantizationError: its layer's inputs are not finite."""
    if weight.source is not weight.parameter:
        return Calibration(name, reason="an adapter adds to it")
    h = found.get(weight.parameter)
    if h is None:
        return Calibration(name, reason="no matrix that its layer multiplies inputs with, or none was seen")
    if not h.isfinite().all():
        raise QuantizationError(f"{name}: its layer's inputs are not finite: calibrate with other data")
    whole, quantizer, grid = weight.channels_first.to(torch.float32, copy=True), weight.quantizer, weight.grid
    before = _error(weight, whole, h)
    seen, h = h, _rotated(h, quantizer.rotation, whole.shape[1:])
    w, narrow = quantizer.rotation(whole).flatten(1), h.to(whole.dtype)
    steps = quantizer.searched(whole, narrow.diagonal().expand_as(w).view_as(whole), weight.bits)
    s, z = steps.each(lambda one: quantizer.spread(one, whole).flatten(1))
    chosen = compensated(w, s, grid, h, z=z)
    weight.place(_nearest(w, s, z, grid, chosen).view_as(whole), steps)
    return Calibration(name, before, _error(weight, whole, seen))


def _error(weight: NamedWeight, whole: Tensor, moments: Tensor) -> float:
    """The error of a layer's outputs with the weight as it evaluates now, in parts of those with the weight `whole`."""
    w, h = whole.flatten(1), moments.to(whole.dtype)
    value = weight.quantizer.decode(*weight.encode(), whole.dtype).flatten(1)
    return _energy(value - w, h) / max(_energy(w, h), 1e-30)


def _rotated(h: Tensor, rotation: Rotation, inputs: torch.Size) -> Tensor:
    """The moments, (n, n), of inputs of a layer after a rotation; `inputs` is a weight's shape behind its channels."""
    for _ in range(2):
        h = rotation.inputs(h.unflatten(0, inputs), 0, inputs[0]).flatten(0, -2).T
    return h


def _nearest(w: Tensor, s: Tensor, z: Optional[Tensor], grid: Grid, codes: Tensor) -> Tensor:
    """The nearest weights to w that round to the codes, (channels, n) as all the others."""
    room, levels = 0.5 - _MARGIN, grid.values(codes.clone(), torch.ones_like(s), z)
    low = torch.where(codes <= grid.low, -torch.inf, levels - room)
    high = torch.where(codes >= grid.high, torch.inf, levels + room)
    return torch.minimum(torch.maximum(w / s, low), high) * s


def _energy(w: Tensor, h: Tensor) -> float:
    """The trace tr(w h w'): the outputs' mean sum of squares."""
    return ((w @ h) * w).sum().item()
