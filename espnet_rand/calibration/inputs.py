"""What the layers of a model multiply their weights with, while it runs on data."""

from contextlib import contextmanager
from typing import Any, Callable, Collection, Dict, Iterator, List

from torch import Tensor, nn
from torch.nn import Parameter

from espnet_rand.layers import quantized_layers


def moments(model: nn.Module, forward: Callable[[], object]) -> Dict[Parameter, Tensor]:
    """The mean of x x' over the inputs x of each weight, (n, n), in float64, over all layers that share it."""
    sums: Dict[Parameter, Tensor] = {}
    counts: Dict[Parameter, int] = {}

    def see(layer, columns):
        parameter = layer._parameters["weight"]
        sums[parameter] = sums.get(parameter, 0) + (columns.T @ columns).double()
        counts[parameter] = counts.get(parameter, 0) + len(columns)

    with _seen([layer for _, layer in quantized_layers(model)], see):
        forward()
    return {parameter: total / max(counts[parameter], 1) for parameter, total in sums.items()}


def inputs(
    model: nn.Module, parameters: Collection[Parameter], forward: Callable[[], object]
) -> Dict[Parameter, List[Tensor]]:
    """The inputs of some weights, call by call, as (positions, n), over all layers that share them.

    There are none where a layer multiplies no matrix.
    """
    found: Dict[Parameter, List[Tensor]] = {parameter: [] for parameter in parameters}
    layers = [layer for _, layer in quantized_layers(model) if layer._parameters.get("weight") in found]
    with _seen(layers, lambda layer, columns: found[layer._parameters["weight"]].append(columns)):
        forward()
    return found


@contextmanager
def _seen(layers: List[Any], see: Callable[[Any, Tensor], object]) -> Iterator[None]:
    """Let `see` get the inputs of layers in a block, as `QuantizedLayer.columns` gives them, in float32."""

    def hook(layer, given):
        columns = layer.columns(given[0]) if given else None
        if columns is not None:
            see(layer, columns.float())

    hooks = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
