"""Quantizes a model: walks it, wraps its layers, and reports what it did."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn

from espnet_rand.config import Configuration, QuantizerConfig
from espnet_rand.errors import QuantizationError
from espnet_rand.layers.clock import Clock
from espnet_rand.layers.computation import telling
from espnet_rand.layers.finite import check_finite
from espnet_rand.layers.layer import QuantizedLayer, all_names, find_layer, own_scales, quantized_layers, wrap_layer
from espnet_rand.layers.learned_scales import Kinds, scale_kind, settle
from espnet_rand.layers.patterns import matches, near
from espnet_rand.layers.report import FloatEntry, QuantizedEntry, Report
from espnet_rand.layers.weight import QuantizedWeight
from espnet_rand.layers.weight_norm import find_norm, fold
from espnet_rand.options import OptionError
from espnet_rand.quantizers import WeightQuantizer


@dataclass
class _Quantization:
    """The state that `quantize` gives a model.

    Attributes:
        believed, alone: arguments of `believe`
    """

    config: QuantizerConfig
    clock: Clock
    believed: Optional[QuantizerConfig] = None
    alone: bool = False


# a key of the metadata of the model's state_dict, which torch.save keeps
_METADATA = "quantizer_forwards"


def quantize(model: nn.Module, config: Configuration) -> Report:
    """Quantize the weights of a model's layers, in place.

    Afterwards training forwards compute with fake-quantized weights, evaluation forwards with
    rounded ones, and `with disabled(model):` with float ones. Parameters, their names and
    `state_dict` keys stay; learned scales add keys (see learned_scales.py). `start_step` counts
    the training forwards of `model` itself, called as `model(...)`.

    A wildcard of the configuration matches a layer by its own name or that of a module above it.

    Args:
        model: any torch model
        config: a QuantizerConfig, or a mapping with `quantizer` and `quantizer_conf`

    Returns:
        what was quantized and what was left in float

    Raises:
        OptionError: an option that is unknown or not allowed, a pattern that matches no layer
        QuantizationError: nothing matched, the model is quantized already, or layers that share
            a weight would quantize it differently, or leave it in float
    """
    if not isinstance(config, QuantizerConfig):
        config = QuantizerConfig.from_dict(config)
    if quantized_layers(model):
        raise QuantizationError(f"{type(model).__name__} is quantized already: build it anew to quantize it otherwise")
    _check_patterns(model, config)
    if config.weight_norm:
        _fold(model, config)
    clock = Clock(torch.initial_seed())
    plan, left = _plan(model, config)
    if not plan:
        reasons = sorted({entry.reason for entry in left}) or ["it has no parameters"]
        raise QuantizationError(f"nothing to quantize in {type(model).__name__}: {'; '.join(reasons)}")
    report = Report(_wrap(plan, config, clock), left)
    model._quantization = _Quantization(config, clock)
    model.register_forward_pre_hook(_begin)
    model.register_forward_hook(_end, always_call=True)
    model.register_state_dict_post_hook(_save_forwards)
    model.register_load_state_dict_pre_hook(_load)
    return report


def quantize_new_layers(model: nn.Module) -> Report:
    """Quantize layers that were put into a quantized model since (adapters), by its configuration.

    Raises:
        QuantizationError: the model is not quantized
    """
    quantization = getattr(model, "_quantization", None)
    if quantization is None:
        raise QuantizationError(f"{type(model).__name__} is not quantized: call quantize() first")
    plan, left = _plan(model, quantization.config)
    there = [weight for _, layer in quantized_layers(model) for weight in layer._quantized.values()]
    first = 1 + max((max(weight.index, weight.layer) for weight in there), default=-1)
    return Report(_wrap(plan, quantization.config, quantization.clock, first), left)


def disabled(model: nn.Module) -> Any:
    """Let the layers of a quantized model compute with their float weights in a block, for this thread alone.

    Raises:
        QuantizationError: the model has no quantized layer, or comes from a packed file
    """
    weights = [weight for _, layer in quantized_layers(model) for weight in layer._quantized.values()]
    if not weights:
        raise QuantizationError(f"{type(model).__name__} has no quantized layer to disable")
    if not all(isinstance(weight, QuantizedWeight) for weight in weights):
        raise QuantizationError("a packed model has no float weights to compute with")
    return telling(off=weights)


def believe(model: nn.Module, config: QuantizerConfig, alone: bool = False) -> None:
    """Take the learned scales of checkpoints of version 0.1, which do not say their kind, for those of `config`.

    Args:
        model: quantized, perhaps by other options than those of the checkpoints that it will load
        alone: whether to refuse, by an OptionError, checkpoints with other learned scales than the model's; else the
            model's start from the weights
    """
    model._quantization.believed, model._quantization.alone = config, alone


def kinds_of(config: QuantizerConfig, model: Optional[nn.Module] = None, prefix: str = "") -> Kinds:
    """A function that gives the kind of a weight's learned scale, by its name, in a model that `config` quantized.

    Args:
        model: the model, or one of the same layers; None: a layer is known by one of its names alone
        prefix: what the names begin with before the model's own
    """
    quantizers = quantizers_of(config, model)
    return lambda weight: scale_kind(quantizers(weight.removeprefix(prefix)))


def quantizers_of(config: QuantizerConfig, model: Optional[nn.Module] = None) -> Callable[[str], WeightQuantizer]:
    """A function that gives a weight's quantizer, by its name, in a model that `config` quantized; see `kinds_of`."""
    names = {} if model is None else {name: every for every in all_names(model).values() for name in every}

    def quantizer(weight: str) -> WeightQuantizer:
        layer = weight.rpartition(".")[0]
        return config.weight_quantizer([key for key in config.overrides if matches(key, names.get(layer, [layer]))])

    return quantizer


class _Planned(NamedTuple):
    """A layer to wrap: its parameters to quantize, and the keys of `overrides` that match it."""

    name: str
    module: nn.Module
    weights: Tuple[str, ...]
    overrides: Tuple[str, ...]


def _check_patterns(model: nn.Module, config: QuantizerConfig) -> None:
    """Raises OptionError: a wildcard matches no layer."""
    layers = [names for module, names in all_names(model).items() if find_layer(module)]
    for key in ("include", "exclude", "overrides"):
        for pattern in getattr(config, key):
            if pattern == "*" or any(matches(pattern, names) for names in layers):
                continue
            hint = near(pattern, (name for names in layers for name in names))
            raise OptionError(f"{key}: {pattern!r} matches no layer of {type(model).__name__}; {hint}")


def _plan(model: nn.Module, config: QuantizerConfig) -> Tuple[List[_Planned], List[FloatEntry]]:
    """The layers to wrap, and the parameters that stay in float, by module: those that no layer quantizes."""
    plan: List[_Planned] = []
    rest = []
    quantized = {id(p) for _, layer in quantized_layers(model) for p in _quantized_parameters(layer)}
    for module, names in all_names(model).items():
        if isinstance(module, QuantizedLayer):
            continue
        name = names[0]
        weights, reason = _quantizable(names, module, config)
        if weights:
            overrides = tuple(pattern for pattern in config.overrides if matches(pattern, names))
            plan.append(_Planned(name, module, weights, overrides))
            quantized.update(id(module._parameters[weight]) for weight in weights)
        kept = [p for n, p in module._parameters.items() if p is not None and n not in weights]
        rest.append((name, module, kept, reason))
    _check_shared(plan, rest)
    left: List[FloatEntry] = []
    counted = set(quantized)
    for name, module, kept, reason in rest:
        new = [p for p in kept if id(p) not in counted]
        counted.update(id(p) for p in new)
        if new:
            count = sum(p.numel() for p in new)
            size = sum(p.numel() * p.element_size() for p in new)
            left.append(FloatEntry(name, type(module).__name__, count, size, reason))
    return plan, left


def _check_shared(plan: List[_Planned], rest: List[Tuple[str, nn.Module, List[nn.Parameter], str]]) -> None:
    """Raises QuantizationError: a planned weight is also that of a module that stays in float."""
    planned = {
        id(layer.module._parameters[weight]): f"{layer.name}.{weight}" for layer in plan for weight in layer.weights
    }
    for name, module, kept, reason in rest:
        for parameter in kept:
            if id(parameter) in planned:
                raise QuantizationError(
                    f"{planned[id(parameter)]} is also a weight of {name} ({type(module).__name__}), which would stay "
                    f"in float ({reason}): exclude both layers or neither"
                )


def _fold(model: nn.Module, config: QuantizerConfig) -> None:
    """Take weight norm out of the layers that are to be quantized."""
    for module, names in all_names(model).items():
        layer = find_layer(module)
        if layer is not None and find_norm(module) is not None and _why_not(names, module, config) is None:
            fold(module)


def _why_not(names: List[str], module: nn.Module, config: QuantizerConfig) -> Optional[str]:
    """The reason why the options leave a layer in float; None: they do not."""
    if not any(matches(pattern, names) for pattern in config.include):
        return "not in include"
    for pattern in config.exclude:
        if matches(pattern, names):
            return f"exclude: {pattern}"
    return find_layer(module).skip(module, names[0], config.depthwise)


def _quantizable(names: List[str], module: nn.Module, config: QuantizerConfig) -> Tuple[Tuple[str, ...], str]:
    """The names of a module's own parameters to quantize, and the reason why the others are not."""
    layer = find_layer(module)
    if layer is None:
        return (), f"not a layer that is quantized ({type(module).__name__})"
    present = tuple(n for n in layer.weights(module) if module._parameters.get(n) is not None)
    if not present:
        if find_norm(module):
            return (), "weight computed by weight norm, a parametrization (weight_norm: true quantizes it)"
        return (), "weight computed by the layer (a parametrization)"
    reason = _why_not(names, module, config)
    if reason is None and not all(module._parameters[n].is_floating_point() for n in present):
        reason = "not floating point"
    return ((), reason) if reason else (present, "bias")


def _quantized_parameters(layer: QuantizedLayer) -> List[nn.Parameter]:
    return [layer._parameters[name] for name in layer._quantized]


def _wrap(plan: List[_Planned], config: QuantizerConfig, clock: Clock, first_number: int = 0) -> List[QuantizedEntry]:
    """Wrap the planned layers. A shared parameter gets one quantized weight, and one learned scale.

    Layers and weights are numbered from `first_number`.
    """
    shared: Dict[int, Tuple[QuantizedWeight, Optional[nn.Parameter]]] = {}
    entries: Dict[int, QuantizedEntry] = {}
    # every conflict is found before any layer is changed
    ready = []
    for name, module, weights, overrides in plan:
        quantizer = config.weight_quantizer(list(overrides))
        fixed = len(quantizer.precision.all) == 1 and any("bits" in config.overrides[key] for key in overrides)
        quantized: Dict[str, QuantizedWeight] = {}
        scales: Dict[str, nn.Parameter] = {}
        for weight in weights:
            parameter = module._parameters[weight]
            full = f"{name}.{weight}" if name else weight
            if id(parameter) not in shared:
                channels_first, own_layout = find_layer(module).layout(module)
                index, layer = first_number + len(shared), first_number + len(ready)
                made = QuantizedWeight(quantizer, clock, index, layer, channels_first, own_layout, fixed)
                made.tracked = made.initial(parameter) if quantizer.scale.learned else None
                scale = None if made.tracked is None else nn.Parameter(made.tracked.detach().clone())
                shared[id(parameter)] = (made, scale)
                entries[id(parameter)] = _entry(full, module, parameter, made)
            else:
                entry = entries[id(parameter)]
                entries[id(parameter)] = replace(entry, shared=(*entry.shared, full))
            made, scale = shared[id(parameter)]
            if made.quantizer != quantizer:
                raise QuantizationError(
                    f"{entries[id(parameter)].name} and {full} are one parameter, but would be quantized differently: "
                    f"{made.quantizer} and {quantizer}; give both the same overrides"
                )
            quantized[weight] = made
            if scale is not None:
                scales[weight] = scale
        ready.append((module, quantized, scales))
    for module, quantized, scales in ready:
        wrap_layer(module, quantized, scales, clock)
    return list(entries.values())


def _entry(name: str, module: nn.Module, parameter: nn.Parameter, made: QuantizedWeight) -> QuantizedEntry:
    quantizer = made.quantizer
    scales = quantizer.granularity.groups(made.channels_first(parameter))
    bits = made.bits * (parameter.numel() + scales * quantizer.grid.shifted)
    scale_bytes = 2 if quantizer.scale_dtype == "bfloat16" else max(4, parameter.element_size())
    return QuantizedEntry(
        name=name,
        layer=type(module).__name__,
        shape=tuple(parameter.shape),
        scales=scales,
        bits=made.bits,
        quantizer=str(quantizer),
        bytes_before=parameter.numel() * parameter.element_size(),
        bytes_after=math.ceil(bits / 8) + scales * scale_bytes,
    )


def _begin(model, args):
    model._quantization.clock.begin(model)


def _end(model, args, output):
    model._quantization.clock.end()


def _save_forwards(model, state_dict, prefix, local_metadata):
    local_metadata[_METADATA] = model._quantization.clock.forwards


def _load(model, state_dict, prefix, local_metadata, *_):
    quantization = model._quantization
    check_finite(state_dict, model, prefix)
    kinds = kinds_of(quantization.believed, model, prefix) if quantization.believed else None
    settled = settle(state_dict, own_scales(model, prefix), kinds)
    if settled.missing and quantization.alone:
        raise OptionError(
            f"quantizer: the checkpoint has no learned scales for {len(settled.missing)} weights "
            f"({settled.missing[0]} ...), which the configuration has. Fix: give the checkpoint of the quantized "
            "training; float weights decode with plain python, or with a configuration without quantizer"
        )
    if settled.left and quantization.alone:
        raise OptionError(
            f"quantizer: the checkpoint was trained with another than the configuration has: {settled.others}. "
            "Fix: give the config.yaml of its own training"
        )
    if str(settled):
        logging.warning(f"espnet_rand: {settled}")
    if _METADATA in local_metadata:
        quantization.clock.forwards = int(local_metadata[_METADATA])
