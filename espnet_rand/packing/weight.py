"""What stands in a layer in the place of a packed weight."""

import math
from typing import Any, Optional, Tuple, Type, Union

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from espnet_rand.packing.file import PackedWeight
from espnet_rand.packing.kernels import Convolution, Kernel, choose


class IntegerWeight(Tensor):
    """A weight that computes on its codes in the calls that can, and is a float tensor in all others.

    The layer's own call (F.linear, F.conv1d, F.conv2d) uses `kernel`; F.embedding decodes the rows
    that it looks up; for anything else the weight is decoded once, and kept.

    Args:
        weight: what it is about
        kernel: made of the weight when it is first used: until then the codes are as they are in the file
        convolution: what the kernel is made for
    """

    @staticmethod
    def __new__(cls, weight: PackedWeight, kernel: Optional[Type[Kernel]], convolution: Optional[Convolution]):
        made = Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, device=weight.scales.device)
        made._kernel, made._convolution, made._packed = kernel, convolution, weight
        made._made = made._codes = made._decoded = None
        return made

    def kernel(self) -> Kernel:
        """The kernel, which from then on keeps the codes."""
        packed = self._packed  # looked at once: another thread may be doing the same
        if packed is not None:
            self._made, self._packed = self._kernel(packed, self._convolution), None
        return self._made

    def decoded(self) -> Tensor:
        """The float weight, scale * code."""
        if self._decoded is None:
            self._decoded = (self._packed or self._made.weight()).values()
        return self._decoded

    def lookup(self, indices: Tensor) -> Tensor:
        """Rows `indices` of the float weight, (*indices, dim)."""
        if self._codes is None:
            self._codes = self._packed.codes()
        codes, scales = self._codes[indices.reshape(-1)], self._packed.scales
        if scales.numel() > 1:
            scales = scales.view(len(self._codes), -1)[indices.reshape(-1)].reshape(-1)
        groups = self._packed.granularity.split(codes).to(scales.dtype)
        rows = self._packed.granularity.join(groups * scales.unsqueeze(1), codes.shape)
        return rows.view(*indices.shape, -1).to(self._packed.dtype)

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


# what is known of a weight without its numbers
_ABOUT = {
    Tensor.shape, Tensor.dtype, Tensor.device, Tensor.requires_grad, Tensor.ndim, Tensor.is_cuda, Tensor.is_meta,
    Tensor.layout, Tensor.is_sparse, Tensor.is_quantized, Tensor.is_mkldnn, Tensor.is_nested, Tensor.is_leaf,
    Tensor.grad_fn, Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__hash__, Tensor.__len__,
}  # fmt: skip


def _linear(x: Tensor, weight: Any, bias: Optional[Tensor] = None) -> Any:
    if not isinstance(weight, IntegerWeight) or weight._kernel is None or weight._convolution:
        return NotImplemented
    y = weight.kernel()(x)
    return y if bias is None else y.add_(bias)


def _convolution(
    x: Tensor,
    weight: Any,
    bias: Optional[Tensor] = None,
    stride: Union[int, Tuple[int, ...]] = 1,
    padding: Union[int, str, Tuple[int, ...]] = 0,
    dilation: Union[int, Tuple[int, ...]] = 1,
    groups: int = 1,
) -> Any:
    if not isinstance(weight, IntegerWeight) or weight._kernel is None:
        return NotImplemented
    called = (stride, padding, dilation, groups)
    if not weight._convolution:  # of one frame
        if called != ((1,), (0,), (1,), 1):
            return NotImplemented
        return _linear(x.transpose(-1, -2), weight, bias).transpose(-1, -2)
    if called != weight._convolution or x.dim() != weight.dim():
        return NotImplemented
    y = weight.kernel()(x)
    return y if bias is None else y.add_(bias.view(-1, *[1] * (x.dim() - 2)))


def _embedding(indices: Tensor, weight: Any, *options: Any, **named: Any) -> Any:
    return weight.lookup(indices) if isinstance(weight, IntegerWeight) and not weight._kernel else NotImplemented


def _to(weight: Any, *options: Any, **named: Any) -> Any:
    """As OpenAI's Whisper calls it before each use."""
    return weight if options == (weight.dtype,) and not named else NotImplemented


_FAST = {Tensor.to: _to, F.linear: _linear, F.conv1d: _convolution, F.conv2d: _convolution, F.embedding: _embedding}


def _convolution_of(module: nn.Module) -> Optional[Convolution]:
    """How a convolution computes; None for one that is a linear map of each frame, and for other layers."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return None
    options = Convolution(module.stride, module.padding, module.dilation, module.groups)
    pointwise = module.kernel_size == (1,) and options == ((1,), (0,), (1,), 1)
    return None if pointwise else options


def _has_kernels(module: nn.Module) -> bool:
    """Whether a layer is one that the kernels know."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


class PackedReader:
    """What a packed layer reads in place of its parameter; has QuantizedWeight's place in it.

    Args:
        weight: on the device that the layer computes on
        module: the layer, and `name` the parameter
        backend: see `espnet_rand.packing.kernels.choose`
    """

    def __init__(self, weight: PackedWeight, module: nn.Module, name: str, backend: str):
        self.quantizer = f"packed, {weight.bits} bits, {len(weight.scales)} scales"
        convolution = _convolution_of(module)
        kernel = choose(backend, weight, weight.scales.device, convolution) if _has_kernels(module) else None
        self.backend = kernel.__name__ if kernel else "float"
        integer = kernel or isinstance(module, nn.Embedding)
        self._integer = IntegerWeight(weight, kernel, convolution) if integer else None
        self._weight = None if integer else weight

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the float weight that the layer computes with; 0 if it computes on codes."""
        return math.prod(self._weight.shape) * self._weight.dtype.itemsize if self._weight else 0

    def keep_decoded(self, layer: nn.Module, name: str) -> None:
        """Decode the weight of a layer that computes in float now; else each read does."""
        layer.register_buffer(name + "_decoded", self._weight.values(), persistent=False)
        self._weight = None

    def read(self, layer: nn.Module, name: str) -> Any:
        """The IntegerWeight, or the float tensor."""
        if layer.training:
            raise RuntimeError(
                "a packed model decodes and does not train. Mend: call eval(); to train, unpack it "
                "(python -m espnet_rand.bin.unpack_weights)"
            )
        if self._weight is not None:
            return self._weight.values()
        return layer._buffers[name + "_decoded"] if self._integer is None else self._integer

    @property
    def enabled(self) -> bool:
        return True

    @enabled.setter
    def enabled(self, value: bool) -> None:
        raise RuntimeError("a packed model has no float weights to compute with")

    def __deepcopy__(self, memo: Any) -> "PackedReader":
        return self  # nothing in it ever changes

    def follow(self, layer: nn.Module, name: str) -> None:
        """Nothing is learned here."""

    def forget(self) -> None:
        """Nothing changes here."""
