"""The protocol of what stands in a layer in place of a parameter: a quantized weight, or a packed one."""

from typing import Any


class Slot:
    """Gives a layer what it computes with in place of a parameter, and is told when the layer changes.

    Only `read` has to be written. `str` of a slot says how the weight is quantized. Layers that share a parameter may
    share a slot: so each call gets the layer, and the name of the parameter there.
    """

    #: The end of the name of the learned scale, behind the parameter's name; empty: there is none.
    scale_suffix = ""

    def read(self, layer: Any, name: str) -> Any:
        """The tensor that the layer computes with in place of its parameter `name`; None: the parameter itself."""
        raise NotImplementedError

    def switch(self, layer: Any, name: str, training: bool) -> None:
        """Called before the layer goes into training or evaluation mode."""

    def save(self, layer: Any, name: str) -> None:
        """Called before the layer's state_dict is made."""
