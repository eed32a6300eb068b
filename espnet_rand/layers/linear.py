"""Linear layers: weight (out, in)."""

from torch import nn

from espnet_rand.layers.layer import QuantizedLayer, quantizes


@quantizes(nn.Linear)
class QuantizedLinear(QuantizedLayer):
    """Quantizes nn.Linear and its subclasses."""

    def columns(self, x):
        return x.reshape(-1, x.shape[-1])
