"""What stands in a layer in place of a parameter: a quantized weight in training, a packed one in decoding."""

from typing import Any


class Slot:
    """What a layer reads in place of its parameter, and tells what becomes of itself.

    One that nothing changes has only to be read. `str` of it says how the weight is quantized. Layers that share a
    parameter may share one of these: so it is told at which layer it is called, and for which of its parameters.
    """

    #: What the parameter's name is followed by in that of its learned scale; empty: it has none.
    scale_suffix = ""

    def read(self, layer: Any, name: str) -> Any:
        """What the layer computes with, a tensor; None: with its parameter `name`."""
        raise NotImplementedError

    def switch(self, layer: Any, name: str, training: bool) -> None:
        """The layer goes into training or evaluation mode next."""

    def save(self, layer: Any, name: str) -> None:
        """The layer's state_dict is made next."""
