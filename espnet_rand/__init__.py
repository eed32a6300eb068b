"""espnet_rand: train, pack and decode speech models with 2- to 8-bit weights, by RAND (arXiv 2305.15536).

>>> import espnet_rand
>>> report = espnet_rand.quantize(model, espnet_rand.QuantizerConfig("rand", bits=4))  # any torch model
>>> espnet_rand.register()                                  # ESPnet: `--quantizer`, `--quantizer_conf`
"""

from espnet_rand.config import QuantizerConfig
from espnet_rand.layers import QuantizationError, Report, disabled, quantize, quantizes
from espnet_rand.quantizers import OptionError, WeightQuantizer

__version__ = "0.1.0"

__all__ = [
    "OptionError",
    "QuantizationError",
    "QuantizerConfig",
    "Report",
    "WeightQuantizer",
    "disabled",
    "quantize",
    "quantizes",
    "register",
]


def register() -> None:
    """Give every ESPnet task in this process the options `--quantizer...`; see espnet_rand.toolkit."""
    from espnet_rand.toolkit.registration import register

    register()
