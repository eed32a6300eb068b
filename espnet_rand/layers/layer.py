"""The quantized layer, and the registry of layer types.

A layer keeps its object, its parameters and their names. Only its class changes, to a
subclass of what it was, in which reading the weight gives the quantized one. So whatever
uses `layer.weight` (the class's own forward, a subclass's, fused fast paths, code that ties
an output layer to an embedding) uses the quantized weight, and `named_parameters`,
`state_dict` and optimizers go on seeing the float parameter.
"""

import functools
import logging
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Type

import torch
from torch import Tensor, nn

from espnet_rand.errors import QuantizationError
from espnet_rand.layers.clock import Clock
from espnet_rand.layers.learned_scales import ScaleParameter, scale_kind, settle
from espnet_rand.layers.slot import Slot
from espnet_rand.layers.weight import LayerWeight, QuantizedWeight
from espnet_rand.layers.weight_norm import folded

_REGISTRY: Dict[Type[nn.Module], Type["QuantizedLayer"]] = {}


def quantizes(*types: Type[nn.Module]) -> Callable:
    """Class decorator: this subclass of QuantizedLayer serves `types` and their subclasses."""

    def register(quantized: Type["QuantizedLayer"]) -> Type["QuantizedLayer"]:
        for kind in types:
            _REGISTRY[kind] = quantized
        return quantized

    return register


def registered() -> Tuple[Type[nn.Module], ...]:
    """The layer types that QuantizedLayers serve."""
    return tuple(_REGISTRY)


def find_layer(module: nn.Module) -> Optional[Type["QuantizedLayer"]]:
    """The QuantizedLayer of the nearest registered ancestor of a module's type; None: there is none."""
    return next((_REGISTRY[kind] for kind in type(module).__mro__ if kind in _REGISTRY), None)


class QuantizedLayer:
    """Mixin that quantizes a torch layer's weights. Subclasses say which, for one layer family."""

    #: Set on wrapping: the slots that stand in place of parameters, by their names, and the model's clock.
    _quantized: Dict[str, Slot]
    _clock: Clock

    @classmethod
    def weights(cls, module: nn.Module) -> Iterable[str]:
        """The names of the parameters of `module` to quantize, with those that it may lack."""
        return ("weight",)

    @classmethod
    def skip(cls, module: nn.Module, name: str, depthwise: bool) -> Optional[str]:
        """The reason why `module`, called `name` in its model, stays in float by default; None: it does not."""
        return None

    @classmethod
    def layout(cls, module: nn.Module) -> Tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Two picklable functions: one brings a weight's output channels to the front, the other brings them back."""
        return _unchanged, _unchanged

    def columns(self, x: Tensor) -> Optional[Tensor]:
        """The layer's input as (positions, n), where it multiplies the n weights of each output channel with it.

        Then its output is `columns @ w.flatten(1).T`, w its weight with the output channels first, but for the shape
        and the bias. None: it computes otherwise.
        """
        return None

    def source(self, name: str) -> Tensor:
        """The tensor that is quantized for the parameter `name`: here the parameter itself."""
        return self._parameters[name]

    def scale_parameter(self, name: str) -> Optional[Tensor]:
        """The learned scale of the parameter `name`, (groups,); None: there is none."""
        suffix = self._quantized[name].scale_suffix
        return self._parameters[name + suffix] if suffix else None

    def sources(self, name: str) -> Tuple[Tensor, ...]:
        """The tensors that the quantized weight depends on, the parameter `name` first."""
        scale = self.scale_parameter(name)
        return (self._parameters[name],) if scale is None else (self._parameters[name], scale)

    @torch.compiler.disable
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:  # then nothing asks the clock
            return super().forward(*args, **kwargs)
        with self._clock.forward(self.training):
            return super().forward(*args, **kwargs)

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        """The layer's parameters; its buffers where it has none, for code that takes a layer's dtype from the first."""
        yield from list(super().parameters(recurse)) or super().buffers(recurse)

    def train(self, mode: bool = True) -> Any:
        for name, slot in self._quantized.items():
            slot.switch(self, name, mode)
        return super().train(mode)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        for name, slot in self._quantized.items():
            slot.save(self, name)
        super()._save_to_state_dict(destination, prefix, keep_vars)
        norm = folded(self)
        if norm is not None and prefix + "weight" in destination:
            weight = destination.pop(prefix + "weight")
            destination.update({prefix + norm.g: norm.norms(weight), prefix + norm.v: weight})

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        """Load; learned scales start from the weights where the checkpoint has none, or none of the model's kind."""
        norm = folded(self)
        if norm is not None and (computed := norm.weight(state_dict, prefix, self._parameters["weight"])) is not None:
            state_dict[prefix + "weight"] = computed
        if settled := str(settle(state_dict, own_scales(self, prefix))):  # a part of a model is loaded by itself
            logging.warning(f"espnet_rand: {settled}")
        absent, untrained = [], {}
        for name, weight in self._with_scales():
            key = prefix + name + weight.scale_suffix
            if key not in state_dict:
                absent.append(key)
            loads = state_dict.get(key), state_dict.get(prefix + name)
            untrained[name] = weight.untrained(LayerWeight(self, name), *loads)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        missing_keys[:] = [key for key in missing_keys if key not in absent]
        for name, weight in self._with_scales():
            weight.loaded(LayerWeight(self, name), untrained[name])

    def _with_scales(self) -> Iterator[Tuple[str, QuantizedWeight]]:
        """The weights that have learned scales, by the parameters' names."""
        return ((name, slot) for name, slot in self._quantized.items() if slot.scale_suffix)

    def _replicate_for_data_parallel(self):
        raise QuantizationError(
            "nn.DataParallel cannot train or run a quantized model: use one process for each GPU "
            "(ESPnet: --multiprocessing_distributed true)"
        )

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        for name in self._quantized:
            _exclude_from_weight_decay(self.scale_parameter(name))

    def extra_repr(self) -> str:
        lines = [super().extra_repr()]
        lines += [f"{name}: {slot}" for name, slot in self._quantized.items()]
        return ", ".join(line for line in lines if line)

    def __reduce__(self):
        base, names = type(self)._made_from
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _new, (type(self)._mixin, base, names), state


def wrap_layer(module: nn.Module, slots: Mapping[str, Slot], scales: Mapping[str, nn.Parameter], clock: Clock) -> None:
    """Turn `module` into its quantized subclass, in place.

    Args:
        slots: what stands in place of its parameters, by their names
        scales: the learned scales, by the names of their parameters
    """
    for name, scale in scales.items():
        _exclude_from_weight_decay(scale)
        module.register_parameter(name + slots[name].scale_suffix, scale)
    module._quantized = {**slots}
    module._clock = clock
    mixin = find_layer(module)
    module.__class__ = _subclass(mixin, type(module), tuple(mixin.weights(module)))
    for name in [n for n in vars(module) if isinstance(getattr(type(module), n, None), property)]:
        del vars(module)[name]


@functools.cache
def _subclass(mixin: Type[QuantizedLayer], base: Type[nn.Module], names: Tuple[str, ...]) -> type:
    attributes = {name: _weight_property(name) for name in names}
    attributes.update(_made_from=(base, names), _mixin=mixin, __module__=base.__module__)
    return type(f"Quantized{base.__name__}", (mixin, base), attributes)


def _new(mixin: Type[QuantizedLayer], base: Type[nn.Module], names: Tuple[str, ...]) -> nn.Module:
    kind = _subclass(mixin, base, names)
    return kind.__new__(kind)


def _weight_property(name: str) -> property:
    def read(layer):
        if name not in layer._quantized:
            return layer._parameters[name]
        try:
            value = layer._quantized[name].read(layer, name)
        except AttributeError as e:
            # nn.Module would take it for a missing attribute and return the float parameter
            raise RuntimeError(f"quantizing {name} failed: {e}") from e
        return layer._parameters[name] if value is None else value

    def write(layer, value):
        raise QuantizationError(
            f"{name} of a quantized layer must stay a parameter: FullyShardedDataParallel cannot train a quantized "
            "model (use DistributedDataParallel), and weight_norm comes before quantize()"
        )

    return property(read, write)


def _exclude_from_weight_decay(scale: Optional[nn.Parameter]) -> None:
    """Mark a scale where ESPnet and others (`exclude_weight_decay`) look. A copy of a parameter loses the mark."""
    if scale is not None:
        scale._no_weight_decay = True


def _unchanged(weight: Tensor) -> Tensor:
    return weight


def own_scales(module: nn.Module, prefix: str = "") -> Dict[str, ScaleParameter]:
    """The learned scales of the quantized layers in a module, by the names of their weights behind `prefix`."""
    return {
        ".".join(filter(None, (prefix.removesuffix("."), path, name))): ScaleParameter(
            scale_kind(weight.quantizer),
            layer.scale_parameter(name).numel(),
            tuple(layer._parameters[name].shape),
        )
        for path, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, QuantizedLayer)
        for name, weight in layer._with_scales()
    }


def all_names(model: nn.Module) -> Dict[nn.Module, List[str]]:
    """The modules of a model with their names: a shared module has several."""
    names: Dict[nn.Module, List[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def quantized_layers(model: nn.Module) -> List[Tuple[str, QuantizedLayer]]:
    """The quantized layers of a model with their names."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, QuantizedLayer)]
