"""The quantized weights of a model: a handle for each, by which others look at it and change it."""

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from espnet_rand.layers.layer import QuantizedLayer
from espnet_rand.layers.weight import LayerWeight, QuantizedWeight
from espnet_rand.quantizers import Grid, Steps, WeightQuantizer


@dataclass
class NamedWeight(LayerWeight):
    """A quantized weight of a model, in the first of the layers that share it.

    Attributes:
        quantized: the slot that stands in the layers in its place
        full_names: all of its names in the model
    """

    quantized: QuantizedWeight
    full_names: List[str]

    @property
    def quantizer(self) -> WeightQuantizer:
        """The quantizer of the weight."""
        return self.quantized.quantizer

    @property
    def learned(self) -> bool:
        """Whether its step sizes have a parameter of their own."""
        return self.quantizer.scale.learned

    @property
    def fixed(self) -> bool:
        """Whether `overrides` gave the weight bits of its own."""
        return self.quantized.fixed

    @property
    def bits(self) -> int:
        """The bits of the weight in evaluation, and in a packed file."""
        return self.quantized.bits

    @property
    def grid(self) -> Grid:
        """The grid that evaluation rounds the weight to."""
        return self.quantizer.grid(self.bits)

    @property
    def channels_first(self) -> Tensor:
        """The float weight, output channels first, without a gradient."""
        return self.quantized.channels_first(self.source.detach())

    def rotated(self, weight: Tensor) -> Tensor:
        """Bring a tensor of the parameter's layout to where it is rounded: output channels first, and rotated."""
        return self.quantizer.rotation(self.quantized.channels_first(weight))

    def unrotated(self, weight: Tensor) -> Tensor:
        """Undo `rotated`."""
        return self.quantized.own_layout(self.quantizer.rotation.back(weight))

    def encode(self, bits: Optional[int] = None) -> Tuple[Tensor, Steps]:
        """Encode the weight: codes, output channels first, and steps, at `bits` (default: those of evaluation)."""
        return self.quantized.encode(self, bits)

    def step_sizes(self, bits: Optional[int] = None) -> Tensor:
        """The size of the steps of `encode`, (groups,), positive."""
        return self.encode(bits)[1].scales.abs()

    def spread(self, numbers: Tensor) -> Tensor:
        """Give each number of the rotated weight that of its group: numbers (groups,) in its shape, channels first."""
        return self.quantizer.spread(numbers, self.channels_first)

    @torch.no_grad()
    def place(self, weight: Tensor, steps: Steps) -> None:
        """Set the float weight to a rotated one, output channels first, and the learned scale to that of its steps."""
        self.parameter.copy_(self.unrotated(weight))
        self.scale.copy_(self.quantizer.parameter(self.channels_first, steps, self.bits))
        self.quantized.tracked = None


def quantized_weights(model: nn.Module) -> Dict[str, NamedWeight]:
    """The quantized weights of a model by their (first) names; one that layers share is there once."""
    found: Dict[int, NamedWeight] = {}
    for module_name, layer in model.named_modules(remove_duplicate=False):
        for name, slot in layer._quantized.items() if isinstance(layer, QuantizedLayer) else ():
            if isinstance(slot, QuantizedWeight):
                entry = found.setdefault(id(layer._parameters[name]), NamedWeight(layer, name, slot, []))
                entry.full_names.append(f"{module_name}.{name}" if module_name else name)
    return {entry.full_names[0]: entry for entry in found.values()}
