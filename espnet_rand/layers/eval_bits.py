"""The bits at which a quantized model evaluates, decodes and is packed: one number, or a plan."""

import threading
from typing import Any, Dict, Mapping, Optional, Union

from torch import nn

from espnet_rand.errors import QuantizationError
from espnet_rand.layers.computation import telling
from espnet_rand.layers.layer import quantized_layers
from espnet_rand.layers.patterns import matches, near
from espnet_rand.layers.weight import QuantizedWeight
from espnet_rand.layers.weights import NamedWeight, quantized_weights
from espnet_rand.options import OptionError, a_precision

#: One number for all weights, or a plan: wildcard on names of weights or modules -> bits; the last match wins.
EvalBits = Union[int, Mapping[str, int]]


def set_eval_bits(model: nn.Module, bits: Optional[EvalBits]) -> None:
    """Let a quantized model evaluate at other numbers of bits, in place, in all threads. Training does not change.

    A forward that runs meanwhile in another thread may see some weights before and some after the change. So a server
    sets the bits before it serves, or uses `evaluating_at` in each request.

    Args:
        model: quantized by `espnet_rand.quantize`
        bits: a number from 2 to 8, for all weights but those that `overrides` gave one number of bits; or a plan, which
            must name every weight but those ("*" is all others); None: the default, the highest number that each weight
            is trained with

    Raises:
        OptionError: bits that are not allowed; a plan that names no weight of the model, or not all
        QuantizationError: the model is not quantized, or comes from a packed file
    """
    chosen = _chosen(model, bits)
    with _setting:  # where two threads set bits, one of them wins, for all weights
        for quantized, b in chosen.items():
            quantized.evaluation_bits = b


_setting = threading.Lock()


def _chosen(model: nn.Module, bits: Optional[EvalBits]) -> Dict[QuantizedWeight, Optional[int]]:
    """The bits of each quantized weight that `set_eval_bits` sets; None: the default. It raises what that does."""
    weights = _trained_weights(model)
    if bits is None:
        chosen = {}
    elif isinstance(bits, Mapping):
        chosen = _planned(bits, weights)
        if missing := [name for name, weight in weights.items() if name not in chosen and not weight.fixed]:
            raise OptionError(
                f"eval_bits: the plan gives {len(missing)} of {len(weights)} weights no bits: "
                f"{', '.join(missing[:3])}; name them, or the others with '*' as its first line"
            )
    else:
        a_precision("eval_bits", bits)
        chosen = {name: bits for name, weight in weights.items() if not weight.fixed}
    for name, b in chosen.items():
        quantizer = weights[name].quantizer
        if quantizer.scale.tied and b != quantizer.precision.bits:
            raise OptionError(
                f"eval_bits: {b} is not allowed for {name}, it must be {quantizer.precision.bits}: "
                f"its step sizes were learned for that ({quantizer.scale})"
            )
    return {weight.quantized: chosen.get(name) for name, weight in weights.items()}


def _trained_weights(model: nn.Module) -> Dict[str, NamedWeight]:
    """The quantized weights of a model whose bits can be chosen.

    Raises:
        QuantizationError: there are none
    """
    if getattr(model, "_quantization", None) is None:
        packed = bool(quantized_layers(model))
        raise QuantizationError(
            f"eval_bits: this {type(model).__name__} is "
            + ("from a packed file, which has its bits: pack its checkpoint again" if packed else "not quantized")
        )
    return quantized_weights(model)


def evaluating_at(model: nn.Module, bits: Optional[EvalBits]) -> Any:
    """A block in which a quantized model evaluates at other numbers of bits, for this thread alone.

    In the block these bits replace those of `set_eval_bits`. Arguments and errors are the same.
    """
    return telling(bits=_chosen(model, bits))


def _planned(plan: Mapping[str, int], weights: Mapping[str, NamedWeight]) -> Dict[str, int]:
    """The bits that a plan gives, by the names of weights. Raises OptionError: a line is not allowed, or names none."""
    chosen = {}
    for pattern, bits in ((str(pattern), bits) for pattern, bits in plan.items()):
        a_precision(f"eval_bits: {pattern}", bits)
        if pattern == "*":
            named = [name for name, weight in weights.items() if not weight.fixed]
        else:
            named = [n for n, w in weights.items() if n == pattern or matches(pattern, w.full_names)]
        if not named:
            raise OptionError(f"eval_bits: {pattern!r} names no quantized weight; {near(pattern, weights)}")
        chosen.update(dict.fromkeys(named, bits))
    return chosen
