"""nn.MultiheadAttention: in_proj_weight (3 embed, embed), or one matrix each for query, key and value.

Its output projection is an nn.Linear of its own.
"""

from torch import nn

from espnet_rand.layers.layer import QuantizedLayer, quantizes


@quantizes(nn.MultiheadAttention)
class QuantizedMultiheadAttention(QuantizedLayer):
    """Quantizes nn.MultiheadAttention and its subclasses."""

    @classmethod
    def weights(cls, module):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
