"""The hook: quantizes the layers of any torch model, in place. No ESPnet here.

One file for each layer family; importing it here puts it into the registry.
"""

from espnet_rand.layers import attention, convolution, embedding, linear, recurrent  # noqa: F401
from espnet_rand.layers.eval_bits import EvalBits, evaluating_at, set_eval_bits
from espnet_rand.layers.finite import check_finite
from espnet_rand.layers.layer import QuantizedLayer, own_scales, quantized_layers, quantizes
from espnet_rand.layers.learned_scales import (
    SCALE_SUFFIX,
    Kinds,
    Settled,
    others,
    scale_key,
    settle,
    split_scales,
)
from espnet_rand.layers.quantize import believe, disabled, kinds_of, quantize, quantize_new_layers
from espnet_rand.layers.report import Report
from espnet_rand.layers.statistics import rounding_statistics
from espnet_rand.layers.weights import NamedWeight, quantized_weights

__all__ = [
    "SCALE_SUFFIX",
    "EvalBits",
    "Kinds",
    "NamedWeight",
    "QuantizedLayer",
    "Report",
    "Settled",
    "believe",
    "check_finite",
    "disabled",
    "evaluating_at",
    "kinds_of",
    "others",
    "own_scales",
    "quantize",
    "quantize_new_layers",
    "quantized_layers",
    "quantized_weights",
    "quantizes",
    "rounding_statistics",
    "scale_key",
    "set_eval_bits",
    "settle",
    "split_scales",
]
