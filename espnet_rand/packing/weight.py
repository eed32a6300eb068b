"""Packed weights in layers: what a layer computes with in place of its parameter."""

import functools
import math
from typing import Any, Dict, Optional, Tuple, Type, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._pytree import tree_map_only

from espnet_rand.errors import QuantizationError
from espnet_rand.layers.slot import Slot
from espnet_rand.packing.file import PackedWeight
from espnet_rand.packing.kernels import Convolution, Kernel, Rotated, choose
from espnet_rand.quantizers import Rotation, Steps


class Codes:
    """The codes of a weight, in the form in which a layer computes with them.

    Args:
        weight: the packed weight
        kernel: the class of a kernel, which is made at first use; until then the codes are as in the file
        convolution: the options that the kernel is made for
    """

    def __init__(self, weight: PackedWeight, kernel: Optional[Type[Kernel]], convolution: Optional[Convolution]):
        self.shape, self.device = weight.shape, weight.scales.device
        self.has_kernel, self.convolution = kernel is not None, convolution
        self._kind, self._packed = kernel, weight
        self._kernel = self._entries = None

    def kernel(self) -> Kernel:
        """The kernel, which from then on keeps the codes."""
        packed = self._packed  # looked at once: another thread may be doing the same
        if packed is not None:
            kind = self._kind if packed.rotation == Rotation() else functools.partial(Rotated, self._kind)
            self._kernel, self._packed = kind(packed, self.convolution), None
        return self._kernel

    def values(self) -> Tensor:
        """The decoded float weight."""
        return (self._packed or self._kernel.weight()).values()

    def lookup(self, indices: Tensor) -> Tensor:
        """Decode the rows `indices` of the weight of an embedding: (*indices, dim)."""
        if self._entries is None:
            self._entries = self._packed.codes()
        flat, packed = indices.reshape(-1), self._packed
        codes = self._entries.index_select(0, flat)
        if not len(flat):
            return codes.view(*indices.shape, codes.shape[1]).to(packed.dtype)
        granularity, entries = packed.granularity, len(self._entries)
        steps = Steps(packed.scales, packed.zeros).each(lambda one: granularity.of_channels(one, entries, flat))
        rows = packed.rotation.back(granularity.decoded(codes, packed.grid, steps))
        return rows.view(*indices.shape, codes.shape[1]).to(packed.dtype)


class IntegerWeight(Tensor):
    """A tensor that computes on codes in the calls that can, and is a float tensor in all others.

    The layer's own call (F.linear, F.conv1d, F.conv2d) uses the codes' kernel; F.embedding decodes the rows
    that it looks up; for anything else the weight is decoded once, and kept.

    Args:
        codes: the codes, which weights of other dtypes may share
        dtype: the dtype of the float tensor
    """

    @staticmethod
    def __new__(cls, codes: Codes, dtype: torch.dtype):
        made = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=dtype, device=codes.device)
        made.codes, made._decoded = codes, None
        return made

    def decoded(self) -> Tensor:
        """The decoded float weight, which is kept."""
        if self._decoded is None:
            self._decoded = self.codes.values().to(self.dtype)
        return self._decoded

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fast = _FAST.get(function)
        result = fast(*args, **kwargs) if fast else NotImplemented
        if result is not NotImplemented:
            return result
        if function in _ABOUT or getattr(function, "__self__", None) in _ABOUT:
            return super().__torch_function__(function, types, args, kwargs)
        args, kwargs = tree_map_only(cls, lambda weight: weight.decoded(), (args, kwargs))
        return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(cls, lambda weight: weight.decoded(), (args, kwargs or {}))
        return function(*args, **kwargs)


# properties of a weight that need no numbers
_ABOUT = {
    Tensor.shape, Tensor.dtype, Tensor.device, Tensor.requires_grad, Tensor.ndim, Tensor.is_cuda, Tensor.is_meta,
    Tensor.layout, Tensor.is_sparse, Tensor.is_quantized, Tensor.is_mkldnn, Tensor.is_nested, Tensor.is_leaf,
    Tensor.grad_fn, Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__hash__, Tensor.__len__,
}  # fmt: skip


# the parameters below have torch's names


def _linear(input: Tensor, weight: Any, bias: Optional[Tensor] = None) -> Any:
    if not isinstance(weight, IntegerWeight) or not weight.codes.has_kernel or weight.codes.convolution:
        return NotImplemented
    y = weight.codes.kernel()(input)
    return y if bias is None else y.add_(bias)


def _convolution(
    input: Tensor,
    weight: Any,
    bias: Optional[Tensor] = None,
    stride: Union[int, Tuple[int, ...]] = 1,
    padding: Union[int, str, Tuple[int, ...]] = 0,
    dilation: Union[int, Tuple[int, ...]] = 1,
    groups: int = 1,
) -> Any:
    if not isinstance(weight, IntegerWeight) or not weight.codes.has_kernel:
        return NotImplemented
    called = (stride, padding, dilation, groups)
    if not weight.codes.convolution:  # of one frame
        if called != ((1,), (0,), (1,), 1):
            return NotImplemented
        return _linear(input.transpose(-1, -2), weight, bias).transpose(-1, -2)
    if called != weight.codes.convolution or input.dim() != weight.dim():
        return NotImplemented
    y = weight.codes.kernel()(input)
    return y if bias is None else y.add_(bias.view(-1, *[1] * (input.dim() - 2)))


def _embedding(input: Tensor, weight: Any, *options: Any, **named: Any) -> Any:
    if not isinstance(weight, IntegerWeight) or weight.codes.has_kernel:
        return NotImplemented
    return weight.codes.lookup(input).to(weight.dtype)


def _to(weight: Any, *options: Any, **named: Any) -> Any:
    """Return the weight itself where it has the dtype: OpenAI's Whisper calls `to` before each use."""
    return weight if options == (weight.dtype,) and not named else NotImplemented


_FAST = {Tensor.to: _to, F.linear: _linear, F.conv1d: _convolution, F.conv2d: _convolution, F.embedding: _embedding}


def _convolution_of(module: nn.Module) -> Optional[Convolution]:
    """The options of a convolution; None for one that is a linear map of each frame, and for other layers."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return None
    options = Convolution(module.stride, module.padding, module.dilation, module.groups)
    pointwise = module.kernel_size == (1,) and options == ((1,), (0,), (1,), 1)
    return None if pointwise else options


def _has_kernels(module: nn.Module) -> bool:
    """Whether kernels know a layer. (Attention reads the weight of its output projection, which they don't.)"""
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return False
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


class PackedSlot(Slot):
    """Gives a packed layer what it computes with in place of its parameter.

    The layer gets a buffer `<name>_decoded`. Its dtype, which `layer.to(dtype)` changes, is the weight's.
    The buffer is empty unless the weight is decoded once.

    Args:
        weight: the packed weight, on the device that the layer computes on
        module: the layer
        name: the name of the parameter in the layer
        backend: see `espnet_rand.packing.kernels.choose`

    Attributes:
        backend: the kernel's name; `lookup` for an embedding, `float` where the weight is decoded
        reason: the reason why no kernel of the backend serves a layer that kernels know; else empty
    """

    def __init__(self, weight: PackedWeight, module: nn.Module, name: str, backend: str):
        self._about = f"packed, {weight.bits} bits, {len(weight.scales)} scales"
        convolution = _convolution_of(module)
        kernel, self.reason = None, ""
        if _has_kernels(module):
            kernel, self.reason = choose(backend, weight, weight.scales.device, convolution)
        self.backend = kernel.__name__ if kernel else "lookup" if isinstance(module, nn.Embedding) else "float"
        floating = self.backend == "float"
        self._weight = weight if floating else None
        self._codes = None if floating else Codes(weight, kernel, convolution)
        self._integers: Dict[torch.dtype, IntegerWeight] = {}
        self._dtype = module._parameters[name].dtype
        empty = weight.scales.new_empty(0, dtype=self._dtype)
        module.register_buffer(name + "_decoded", empty, persistent=False)

    @property
    def decoded_bytes(self) -> int:
        """The bytes of the float weight that the layer computes with; 0 if it computes on codes."""
        return math.prod(self._weight.shape) * self._dtype.itemsize if self._weight else 0

    def keep_decoded(self, layer: nn.Module, name: str) -> None:
        """Decode the weight of a layer that computes in float now, once; else each read decodes it."""
        layer._buffers[name + "_decoded"] = self._weight.values().to(layer._buffers[name + "_decoded"].dtype)
        self._weight = None

    def read(self, layer: nn.Module, name: str) -> Any:
        """The weight that the layer computes with: an IntegerWeight, or a float tensor."""
        if layer.training:
            raise QuantizationError(
                "a packed model decodes and does not train. Fix: call eval(); to train, unpack it "
                "(python -m espnet_rand.bin.unpack_weights)"
            )
        decoded = layer._buffers[name + "_decoded"]
        if self._weight is not None:
            return self._weight.values().to(decoded.dtype)
        if self._codes is None:
            return decoded
        if decoded.dtype not in self._integers:
            self._integers[decoded.dtype] = IntegerWeight(self._codes, decoded.dtype)
        return self._integers[decoded.dtype]

    def __str__(self) -> str:
        return self._about

    def __deepcopy__(self, memo: Any) -> "PackedSlot":
        return self  # what the layers compute with never changes
