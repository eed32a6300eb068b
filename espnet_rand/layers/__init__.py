"""The hook: quantizes the layers of any torch model, in place. No ESPnet here.

One file for each layer family; importing it here puts it into the registry.
"""

from espnet_rand.layers import attention, convolution, embedding, linear, recurrent  # noqa: F401
from espnet_rand.layers.eval_bits import EvalBits, NamedWeight, evaluating_at, quantized_weights, set_eval_bits
from espnet_rand.layers.layer import SCALE_SUFFIX, QuantizationError, QuantizedLayer, quantized_layers, quantizes
from espnet_rand.layers.quantize import disabled, quantize, quantize_new_layers
from espnet_rand.layers.report import Report

__all__ = [
    "SCALE_SUFFIX",
    "EvalBits",
    "NamedWeight",
    "QuantizationError",
    "QuantizedLayer",
    "Report",
    "disabled",
    "evaluating_at",
    "quantize",
    "quantize_new_layers",
    "quantized_layers",
    "quantized_weights",
    "quantizes",
    "set_eval_bits",
]
