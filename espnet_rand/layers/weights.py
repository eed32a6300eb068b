"""The quantized weights of a model: for each one handle, by which others look at it and change it."""

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from espnet_rand.layers.layer import QuantizedLayer
from espnet_rand.layers.weight import LayerWeight, QuantizedWeight
from espnet_rand.quantizers import Grid, WeightQuantizer


@dataclass
class NamedWeight(LayerWeight):
    """A quantized weight of a model: of several layers that share it the first.

    Attributes:
        quantized: what stands in the layers in its place
        full_names: all of its names in the model
    """

    quantized: QuantizedWeight
    full_names: List[str]

    @property
    def quantizer(self) -> WeightQuantizer:
        """How it is quantized."""
        return self.quantized.quantizer

    @property
    def learned(self) -> bool:
        """Whether its step sizes have a parameter of their own."""
        return self.quantizer.scale.learned

    @property
    def fixed(self) -> bool:
        """Whether its bits are its own, by `overrides`."""
        return self.quantized.fixed

    @property
    def bits(self) -> int:
        """In evaluation, and in a packed file."""
        return self.quantized.bits

    @property
    def grid(self) -> Grid:
        """What evaluation rounds it to."""
        return self.quantizer.grid(self.bits)

    @property
    def rows(self) -> Tensor:
        """The float weight, output channels first, without a gradient."""
        return self.quantized.rows(self.source.detach())

    def encode(self, bits: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Codes, output channels first, and scales of evaluation (see WeightQuantizer.encode); `bits`: of others."""
        return self.quantized.encode(self, bits)

    def step_sizes(self, bits: Optional[int] = None) -> Tensor:
        """The scales of `encode`, (groups,)."""
        return self.encode(bits)[1]

    def spread(self, steps: Tensor) -> Tensor:
        """Of step sizes, (groups,), each number's own, output channels first."""
        return self.quantizer.spread(steps, self.rows)

    @torch.no_grad()
    def place(self, rows: Tensor, scales: Tensor) -> None:
        """Set the float weight, output channels first, and the learned scale to that of step sizes, (groups,)."""
        self.parameter.copy_(self.quantized.unrows(rows))
        self.scale.copy_(self.quantizer.parameter(rows, scales, self.bits))
        self.quantized.followed = None


def quantized_weights(model: nn.Module) -> Dict[str, NamedWeight]:
    """The quantized weights of a model by their (first) names; one that layers share is there once."""
    found: Dict[int, NamedWeight] = {}
    for module_name, layer in model.named_modules(remove_duplicate=False):
        for name, slot in layer._quantized.items() if isinstance(layer, QuantizedLayer) else ():
            if isinstance(slot, QuantizedWeight):
                entry = found.setdefault(id(layer._parameters[name]), NamedWeight(layer, name, slot, []))
                entry.full_names.append(f"{module_name}.{name}" if module_name else name)
    return {entry.full_names[0]: entry for entry in found.values()}
