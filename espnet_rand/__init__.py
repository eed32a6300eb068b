"""espnet_rand: train, pack and decode speech models with 2- to 8-bit weights, by RAND (arXiv 2305.15536).

>>> import espnet_rand
>>> report = espnet_rand.quantize(model, espnet_rand.QuantizerConfig("rand", bits=4))  # any torch model
>>> espnet_rand.register()                                  # ESPnet: `--quantizer`, `--quantizer_conf`
"""

import importlib

__version__ = "0.1.0"

# imported when they are first used: the launcher and pip need no torch
_HOMES = {
    "OptionError": "options",
    "QuantizationError": "errors",
    "QuantizerConfig": "config",
    "Report": "layers",
    "UserError": "errors",
    "WeightQuantizer": "quantizers",
    "disabled": "layers",
    "quantize": "layers",
    "quantizes": "layers",
    "evaluating_at": "layers",
    "set_eval_bits": "layers",
}
__all__ = [*_HOMES, "register"]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def register() -> None:
    """Give every ESPnet task in this process the options `--quantizer...`; see espnet_rand.toolkit."""
    from espnet_rand.toolkit.hooks.registration import register

    register()
