"""Packs a quantized model, and loads a packed one into a float model."""

import logging
import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple, Union

import psutil
import torch
from torch import Tensor, nn

from espnet_rand.context import patching
from espnet_rand.errors import NotFiniteError, QuantizationError
from espnet_rand.layers.clock import Clock
from espnet_rand.layers.finite import check_finite
from espnet_rand.layers.layer import all_names, find_layer, quantized_layers, registered, wrap_layer
from espnet_rand.layers.learned_scales import SCALE_SUFFIX
from espnet_rand.layers.report import FloatEntry, QuantizedEntry, Report
from espnet_rand.layers.weight_norm import find_norm, fold, folded
from espnet_rand.layers.weights import NamedWeight, quantized_weights
from espnet_rand.packing.bits import pack
from espnet_rand.packing.file import PackedFileError, PackedModel, PackedWeight
from espnet_rand.packing.kernels import KERNELS
from espnet_rand.packing.weight import PackedSlot


@torch.no_grad()
def pack_model(model: nn.Module, info: Mapping[str, Any] = {}) -> PackedModel:
    """Pack a quantized model: the codes that it evaluates with, and the rest of its state_dict.

    Args:
        model: quantized by `espnet_rand.quantize`; it is put into evaluation mode
        info: further metadata of the file

    Raises:
        QuantizationError: the model has no quantized weight
        NotFiniteError: a parameter or a scale is NaN or infinite
    """
    model.eval()
    check_finite(dict(model.named_parameters()), model)
    quantized = quantized_weights(model)
    if not quantized:
        if quantized_layers(model):
            raise QuantizationError(f"{type(model).__name__} is from a packed file. Fix: pack its checkpoint again")
        raise QuantizationError(f"{type(model).__name__} has no quantized layer: nothing to pack")
    weights, norms, aliases = {}, {}, {}
    for weight in quantized.values():
        made, norm = _packed(weight), folded(weight.layer)
        names = weight.full_names
        if norm is not None:
            prefixes = [name.removesuffix(weight.name) for name in names]
            names = [prefix + norm.v for prefix in prefixes]
            norms.update({prefix + norm.g: norm.norms(made.values()) for prefix in prefixes})
        weights[names[0]] = made
        aliases.update(dict.fromkeys(names[1:], names[0]))
    floats, seen = {}, {}
    for name, tensor in model.state_dict().items():
        if name in weights or name in aliases or name.endswith(SCALE_SUFFIX) or _adapter(name):
            continue
        tensor = norms.get(name, tensor)
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
        else:
            seen[key], floats[name] = name, tensor
    return PackedModel(weights, floats, aliases, dict(info))


def _packed(weight: NamedWeight) -> PackedWeight:
    """Pack one weight. Raises NotFiniteError: nothing could compute with it."""
    codes, (scales, zeros) = weight.encode()
    made = PackedWeight(
        packed=pack(codes.flatten(1), weight.bits),
        scales=_narrow(scales),
        grid=weight.grid,
        shape=tuple(weight.parameter.shape),
        granularity=weight.quantizer.granularity,
        dtype=weight.parameter.dtype,
        transposed=_transposed(weight.layer),
        zeros=None if zeros is None else zeros.to(torch.int8),
        rotation=weight.quantizer.rotation,
    )
    if fault := made.fault():
        raise NotFiniteError(f"{weight.full_names[0]}: {fault}")
    return made


def _transposed(module: Any) -> int:
    """The number of groups of a transposed convolution; 0 for other layers."""
    return module.groups if getattr(module, "transposed", False) else 0


def _narrow(scales: Tensor) -> Tensor:
    """Scales in 16 bits where these hold every one exactly, so that no decoded weight changes."""
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal(scales.to(dtype).to(scales.dtype), scales):
            return scales.to(dtype)
    return scales


def _adapter(name: str) -> bool:
    """Whether a name is that of a matrix of LoRA, whose sum the weight holds in evaluation mode."""
    return name.rpartition(".")[2] in ("lora_A", "lora_B")


@contextmanager
def weights_on_meta() -> Iterator[None]:
    """Give layers that are made in the block parameters without memory, for `load_into` to fill.

    Other threads go on as ever; those that enter such a block wait.
    """
    layers = [kind for kind in registered() if kind.__module__.startswith("torch.")]
    with patching((nn.Module, "to", _stay), *((kind, "__init__", _init_on_meta) for kind in layers)):
        yield


def _init_on_meta(original: Callable, module: nn.Module, *args: Any, **kwargs: Any) -> None:
    if kwargs.get("device") is None:
        kwargs["device"] = "meta"
    original(module, *args, **kwargs)


def _stay(original: Callable, module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    return module


def load_into(
    model: nn.Module, packed: PackedModel, backend: str = "auto", device: Union[str, torch.device] = "cpu"
) -> None:
    """Make a float model decode with the codes of a packed one, in place.

    Args:
        model: of the packed one's architecture, not quantized; its layers may have been made in `weights_on_meta`
        packed: the packed model, as `read_packed` or `pack_model` gives it
        backend: see `espnet_rand.packing.kernels.choose`
        device: the device on which the model will compute

    Raises:
        PackedFileError: names, shapes or dtypes do not fit; nothing is changed then
        NotFiniteError: numbers are NaN or infinite
    """
    device = torch.device(device)
    packed = _without_norms(model, packed)
    _check(model, packed)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    floats = {name: tensor.to(device, dtypes[name]) for name, tensor in packed.floats.items()}
    shared = {alias: name for alias, name in packed.aliases.items() if name in floats}
    floats.update({alias: floats[name].to(dtypes[alias]) for alias, name in shared.items()})
    model.load_state_dict(floats, strict=False, assign=True)
    clock = Clock(0)
    made: List[Tuple[PackedSlot, nn.Module, str]] = []
    for module, names in _layers(model, packed):
        slots: Dict[str, Any] = {}
        for name, weight in names.items():
            zeros = None if weight.zeros is None else weight.zeros.to(device)
            weight = replace(weight, packed=weight.packed.to(device), scales=weight.wide_scales.to(device), zeros=zeros)
            slots[name] = PackedSlot(weight, module, name, backend)
            module._parameters[name] = None
            made.append((slots[name], module, name))
        wrap_layer(module, slots, {}, clock)
    _say([slot for slot, _, _ in made], backend)
    _keep_decoded([entry for entry in made if entry[0].decoded_bytes], device)
    model.requires_grad_(False).eval()
    lost = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if lost:
        raise PackedFileError(f"the packed model lacks {', '.join(lost[:5])}: pack it again from its checkpoint")


def _without_norms(model: nn.Module, packed: PackedModel) -> PackedModel:
    """Take weight norm out of a model's layers whose weights are packed; return the packed model with their names."""
    names, norms = {}, set()
    for module, modules in all_names(model).items():
        norm, prefixes = find_norm(module), [f"{name}." if name else "" for name in modules]
        if norm is not None and prefixes[0] + norm.v in packed.weights:
            names.update({prefix + norm.v: prefix + "weight" for prefix in prefixes})
            norms.update(prefix + norm.g for prefix in prefixes)
            fold(module)
    return replace(
        packed,
        weights={names.get(name, name): weight for name, weight in packed.weights.items()},
        floats={name: tensor for name, tensor in packed.floats.items() if name not in norms},
        aliases={names.get(a, a): names.get(name, name) for a, name in packed.aliases.items() if a not in norms},
    )


def _say(slots: List[PackedSlot], backend: str) -> None:
    """Log how many weights each kernel serves; warn where a backend that was asked for serves none."""
    served = Counter(slot.backend for slot in slots)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(served.items()))
    logging.info(f"espnet_rand: packed weights, backend {backend}: {counts}")
    if backend in KERNELS and not served.keys() - {"lookup", "float"}:
        reason = next((slot.reason for slot in slots if slot.reason), "it has no linear layer or convolution")
        logging.warning(f"espnet_rand: {backend} serves no layer of the model, which is decoded: {reason}")


def _keep_decoded(slots: List[Tuple[PackedSlot, nn.Module, str]], device: torch.device) -> None:
    """Decode the weights that layers compute with in float once, if that takes at most half of the free memory."""
    needed, free = sum(slot.decoded_bytes for slot, _, _ in slots), _free_memory(device)
    if needed > free / 2:
        logging.warning(
            f"espnet_rand: {needed / 1e6:.0f} MB of packed weights are decoded in each call, which is slow: "
            f"kept in float they would take more than half of the {free / 1e6:.0f} MB that are free on {device}"
        )
        return
    for slot, module, name in slots:
        slot.keep_decoded(module, name)


def _free_memory(device: torch.device) -> int:
    """The free bytes of a GPU's own memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def report(packed: PackedModel) -> Report:
    """The report of what a packed model holds. It compares sizes with those of float32 weights."""
    quantized = [
        QuantizedEntry(
            name=name,
            layer="",
            shape=weight.shape,
            scales=len(weight.scales),
            bits=weight.bits,
            quantizer=weight.rounding,
            bytes_before=math.prod(weight.shape) * 4,
            bytes_after=weight.bytes,
            shared=tuple(alias for alias, first in packed.aliases.items() if first == name),
        )
        for name, weight in packed.weights.items()
    ]
    kept = [
        FloatEntry(name, "", tensor.numel(), tensor.numel() * tensor.element_size(), str(tensor.dtype))
        for name, tensor in packed.floats.items()
    ]
    return Report(quantized, kept)


def _layers(model: nn.Module, packed: PackedModel) -> List[Tuple[nn.Module, Dict[str, PackedWeight]]]:
    """The layers of a model that have packed weights, with the weights by parameter name."""
    weights = {**packed.weights}
    weights.update({alias: weights[name] for alias, name in packed.aliases.items() if name in weights})
    layers: Dict[nn.Module, Dict[str, PackedWeight]] = {}
    for full, weight in weights.items():
        module, _, name = full.rpartition(".")
        layers.setdefault(model.get_submodule(module), {})[name] = weight
    return list(layers.items())


def _converts(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether a model may get a tensor of a dtype in the dtype that it wants."""
    return given == wanted or (given.is_floating_point and wanted.is_floating_point)


def _check(model: nn.Module, packed: PackedModel) -> None:
    """Raises PackedFileError or NotFiniteError: a packed model does not fit a float one; see `load_into`."""
    floats: Dict[str, Any] = dict(packed.floats)
    weights: Dict[str, Any] = dict(packed.weights)
    for alias, name in packed.aliases.items():
        group = floats if name in floats else weights
        group[alias] = group[name]
    wanted, kind = model.state_dict(), type(model).__name__
    shapes = {name: tuple(one.shape) for name, one in (*floats.items(), *weights.items())}
    for names, what in ((wanted.keys() - shapes.keys(), "has no"), (shapes.keys() - wanted.keys(), "has an unknown")):
        if names:
            few = ", ".join(sorted(names)[:3])
            raise PackedFileError(
                f"made for another architecture than this {kind}: it {what} {few} ({len(names)} names)"
            )
    for name, tensor in wanted.items():
        if shapes[name] != tuple(tensor.shape):
            raise PackedFileError(
                f"made for another architecture than this {kind}: {name} is {shapes[name]}, and "
                f"{tuple(tensor.shape)} in the model"
            )
        if not _converts((floats.get(name, weights.get(name))).dtype, tensor.dtype):
            raise PackedFileError(f"{name} has another dtype than in this {kind}, where it is {tensor.dtype}")
    check_finite(floats, model)
    for name, weight in weights.items():
        # in the model's dtype; kernels take scales in float32
        narrow = replace(weight, scales=weight.scales.float(), dtype=wanted[name].dtype)
        if fault := narrow.fault():
            raise NotFiniteError(f"{name}: {fault}")
    for module, names in _layers(model, packed):
        layer = find_layer(module)
        for name, weight in names.items():
            if layer is None or name not in layer.weights(module):
                raise PackedFileError(f"{name} of a {type(module).__name__} is packed, which cannot compute with it")
            if weight.transposed != _transposed(module):
                raise PackedFileError(f"{name} of a {type(module).__name__}: packed with another order of channels")
