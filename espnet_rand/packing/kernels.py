"""Integer compute: torch's own kernels behind one interface.

A backend is one or more classes here, for layers of different kinds, one line in `KERNELS`, and a name in
`environment.BACKENDS`. `choose` holds the rule of `auto`.
"""

import math
import warnings
from dataclasses import replace
from typing import Callable, Dict, NamedTuple, Optional, Tuple, Type

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_rand.packing.bits import pack
from espnet_rand.packing.file import PackedWeight
from espnet_rand.quantizers import Grid, PerChannel, PerColumn, PerGroup, PerTensor


class Convolution(NamedTuple):
    """The options that a one- or two-dimensional convolution is called with."""

    stride: Tuple[int, ...]
    padding: Tuple[int, ...]
    dilation: Tuple[int, ...]
    groups: int


class Kernel:
    """Multiplies with a layer's weight, without a float copy of it.

    Args:
        weight: a matrix, (out, in), or (out, in, 1) of a convolution that is a linear map; or of another convolution
        convolution: the options of another convolution; None: a linear map
    """

    @staticmethod
    def serves(weight: PackedWeight, device: torch.device, convolution: Optional[Convolution] = None) -> Optional[str]:
        """The reason why this kernel cannot serve a weight on a device, as words behind its name; None: it can."""
        raise NotImplementedError

    def __init__(self, weight: PackedWeight, convolution: Optional[Convolution] = None):
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the layer's output without its bias, in x's dtype.

        For a linear map x is (..., in) and the output (..., out); for a convolution they are as in torch,
        with a batch. A batch may be empty. A number in x that is not finite makes the outputs of its row
        not finite; in a convolution, the outputs that cover it. It changes no other output.
        """
        raise NotImplementedError

    def weight(self) -> PackedWeight:
        """The weight that the kernel was made of."""
        raise NotImplementedError


def _int8_serves(weight: PackedWeight, device: torch.device) -> Optional[str]:
    """`Kernel.serves` of the int8 kernels on x86."""
    if device.type != "cpu" or torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"):
        return "needs an x86 CPU"
    return _integers_serve(weight)


def _integers_serve(weight: PackedWeight) -> Optional[str]:
    """The reason why a kernel cannot serve that needs 8-bit integers and a scale for each channel; None: it can."""
    if not isinstance(weight.granularity, (PerTensor, PerChannel)):
        return "needs a scale for each channel or for all, not for groups or columns"
    if not weight.grid.has_integers:
        return "needs a grid of integers"
    wide = weight.bits == 8 and type(weight.grid) is not Grid
    return "holds integers of 8 bits, which 8-bit codes are on the symmetric grid alone" if wide else None


def _as_kept(weight: PackedWeight) -> PackedWeight:
    """What a kernel keeps of a weight: all but the codes, where it has them in a form of its own."""
    return replace(weight, packed=weight.packed.new_empty(0)) if type(weight.grid) is Grid else weight


def _given_back(kept: PackedWeight, codes: Callable[[], Tensor]) -> PackedWeight:
    """The weight again, of what `_as_kept` gave; `codes` makes the codes, int8 (channels, inputs)."""
    return kept if kept.packed.numel() else replace(kept, packed=pack(codes(), kept.bits))


def _seven_bits(integers: Tensor) -> bool:
    """Whether a layer's input has to be rounded to 7 bits, for the integers of its weight.

    Without VNNI instructions pairs of products are summed in 16 bits: 2 * 255 * 64 fits, more does not.
    """
    return not torch.cpu._is_vnni_supported() and int(integers.short().abs().amax()) > 64


class Int8Dynamic(Kernel):
    """Multiplies with the codes as int8, on x86 CPUs; rounds x to 8 bits in each call.

    One scale serves all of x but the rows that are not finite: these count as zeros, and their output is NaN.
    """

    @staticmethod
    def serves(weight, device, convolution=None):
        return "multiplies matrices" if convolution else _int8_serves(weight, device)

    def __init__(self, weight, convolution=None):
        self._kept = _as_kept(weight)
        codes, scales = weight.integers()
        self._seven_bits = _seven_bits(codes)
        codes, scales = codes.flatten(1), scales.double().expand(len(codes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants torchao instead, which has no such kernel for a CPU
            tensor = torch._make_per_channel_quantized_tensor(codes, scales, torch.zeros_like(scales).long(), 0)
            self._weight = torch.ops.quantized.linear_prepack(tensor, None)
        self._multiply = torch.ops.quantized.linear_dynamic

    def __call__(self, x):
        # a call for one frame takes little longer than Python around it: nothing is done that need not be
        if x.dim() == 1:  # the kernel wants more, and searches pass one
            return self(x.unsqueeze(0)).squeeze(0)
        if x.dtype != torch.float32:
            return self(x.float()).to(x.dtype)
        if not math.isfinite(x.sum().item()):  # the cheapest look at all of x; the sum of finite numbers may overflow
            spoiled = ~x.isfinite().all(-1, keepdim=True)
            y = self._multiply(x.masked_fill(spoiled, 0.0), self._weight, self._seven_bits)
            return y.masked_fill_(spoiled, torch.nan)
        return self._multiply(x, self._weight, self._seven_bits)

    def weight(self):
        return _given_back(self._kept, lambda: torch.ops.quantized.linear_unpack(self._weight)[0].int_repr())


class Int8Matmul(Kernel):
    """Multiplies as Int8Dynamic does, on CUDA, by cuBLAS; rounds x with a scale for each frame."""

    @staticmethod
    def serves(weight, device, convolution=None):
        if convolution or device.type != "cuda":
            return "multiplies matrices, on CUDA"
        if any(size % 8 for size in weight.matrix_shape):
            return "needs a multiple of 8 inputs and outputs"
        return _integers_serve(weight)

    def __init__(self, weight, convolution=None):
        self._kept = _as_kept(weight)
        codes, scales = weight.integers()
        self._codes = codes.flatten(1).t()
        self._scales = scales.float().expand(self._codes.shape[1])

    def __call__(self, x):
        flat = x.reshape(-1, x.shape[-1]).float()
        steps = flat.abs().amax(1, keepdim=True).div_(127).clamp_(min=torch.finfo(torch.float32).tiny)
        codes = (flat / steps).round_().to(torch.int8)
        codes = F.pad(codes, (0, 0, 0, max(17 - len(codes), 0)))  # cuBLAS refuses fewer rows
        y = torch._int_mm(codes, self._codes)[: len(flat)] * (steps * self._scales)
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)

    def weight(self):
        return _given_back(self._kept, self._codes.t)


class Int8Convolution(Kernel):
    """Convolves as Int8Dynamic multiplies, by oneDNN.

    (torch's `quantized.conv2d_dynamic` would round the output to the input's range.) Numbers in x that are not finite
    count as zeros, and the outputs that cover them are NaN.
    """

    @staticmethod
    def serves(weight, device, convolution=None):
        if convolution is None or not torch.backends.mkldnn.is_available():
            return "convolves, with oneDNN"
        return _int8_serves(weight, device)

    def __init__(self, weight, convolution=None):
        self._made_of = weight
        codes, scales = weight.integers()
        self._seven_bits = _seven_bits(codes)
        self._flat = codes.dim() == 3  # one-dimensional: as an image of height 1
        stride, padding, dilation = (
            [before, *values] if self._flat else [*values] for before, values in zip((1, 0, 1), convolution[:3])
        )
        self._options = stride, padding, dilation, convolution.groups
        self._scales = scales.float().expand(len(codes)).contiguous()
        self._zeros = torch.zeros(len(codes), dtype=torch.int8)
        codes = codes.unsqueeze(2) if self._flat else codes
        self._shape = codes.shape
        self._weight = torch.ops.onednn.qconv_prepack(codes, self._scales, 1.0, 0, *self._options)

    def __call__(self, x):
        image = (x.unsqueeze(2) if self._flat else x).float()
        y = self._convolve(image) if image.numel() else self._sums(image)
        return (y.squeeze(2) if self._flat else y).to(x.dtype)

    def _convolve(self, image: Tensor) -> Tensor:
        """Convolve an image: (batch, in, height, width) -> (batch, out, height, width)."""
        # oneDNN computes, and answers, with the channels last in memory
        last = image.permute(0, 2, 3, 1).contiguous()
        low, high = (end.item() for end in torch.aminmax(last))
        if not math.isfinite(high - low):
            spoiled = ~image.isfinite()
            y = self._convolve(image.masked_fill(spoiled, 0.0))
            return y.masked_fill_(self._sums(spoiled.float()) > 0.5, torch.nan)
        codes, *x_conf = _rounded(last, low, high, 127 if self._seven_bits else 255)
        codes, y_conf = codes.permute(0, 3, 1, 2), (1.0, 0, torch.float32, "none", [], "")
        return torch.ops.onednn.qconv2d_pointwise(
            codes, *x_conf, self._weight, self._scales, self._zeros, None, *self._options, *y_conf
        )

    def _sums(self, image: Tensor) -> Tensor:
        """Convolve an image in float, with a weight of ones."""
        return F.conv2d(image, image.new_ones(self._shape), None, *self._options)

    def weight(self):
        return self._made_of


def _rounded(x: Tensor, low: float, high: float, levels: int) -> Tuple[Tensor, float, int]:
    """Round x to steps from its least to its largest value, 0 among them: uint8 numbers, the step, the number of 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / levels, torch.finfo(torch.float32).tiny)
    zero = round(-low / step)
    return (x / step).add_(zero).round_().clamp_(0, levels).to(torch.uint8), step, zero


class Int4WeightOnly(Kernel):
    """Multiplies with codes of 4 bits or fewer in torch's int4 layout, in bfloat16, to which it rounds the scales.

    The layouts for CPU and CUDA differ; a code c is c + 8 in both, and stands for c scales and what a group adds.
    """

    @staticmethod
    def _shared(weight: PackedWeight) -> int:
        """The number of inputs that share a scale."""
        per_group = isinstance(weight.granularity, PerGroup)
        return weight.granularity.group_size if per_group else weight.matrix_shape[1]

    @staticmethod
    def _group(weight: PackedWeight) -> Optional[int]:
        """The largest group size that the kernel knows and that divides what shares a scale; None: there is none."""
        length, size = weight.matrix_shape[1], Int4WeightOnly._shared(weight)
        sizes = [n for n in (256, 128, 64, 32) if length % n == 0 and (size >= length or size % n == 0)]
        return sizes[0] if sizes else None

    @staticmethod
    def serves(weight, device, convolution=None):
        if device.type not in ("cpu", "cuda"):
            return "needs a CPU or CUDA"
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            return "needs a GPU of compute capability 8.0 or later"
        if convolution is not None:
            return "multiplies matrices"
        if weight.bits > 4:
            return f"holds 4 bits, not {weight.bits}"
        if isinstance(weight.granularity, PerColumn):
            return "has scales for outputs, not for inputs"
        if weight.matrix_shape[0] % 16 or Int4WeightOnly._group(weight) is None:
            return "needs a multiple of 16 outputs, and groups of a multiple of 32"
        return None

    def __init__(self, weight, convolution=None):
        self._about = replace(weight, packed=weight.packed.new_empty(0))
        codes = weight.codes().flatten(1)
        out, length = codes.shape
        self._size = self._group(weight)
        first = torch.arange(0, length, self._size, device=codes.device)  # inputs of the kernel's groups
        added = weight.grid.values(torch.zeros_like(weight.scales), weight.scales, weight.zeros)  # of code 0
        scales, added = (
            one.expand(out if one.numel() == 1 else -1).view(out, -1)[:, first // self._shared(weight)]
            for one in (weight.scales, added)
        )
        self._scales = torch.stack([scales, added], 2).transpose(0, 1).to(torch.bfloat16).contiguous()
        aten = torch.ops.aten
        if codes.is_cuda:
            nibbles = (codes + 8).to(torch.uint8)
            self._weight = aten._convert_weight_to_int4pack(nibbles[:, ::2] << 4 | nibbles[:, 1::2], 2)
            self._multiply = aten._weight_int4pack_mm
        else:
            self._weight = aten._convert_weight_to_int4pack_for_cpu((codes + 8).int(), 2)
            self._multiply = aten._weight_int4pack_mm_for_cpu

    def __call__(self, x):
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16).contiguous()
        if len(flat):
            y = self._multiply(flat, self._weight, self._size, self._scales)
        else:  # CUDA's refuses it
            y = flat.new_empty(0, self._scales.shape[1])
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)

    def weight(self):
        """The weight, whose codes are what the kernel makes of the unit vectors with scales of 1."""
        ones = torch.zeros_like(self._scales)
        ones[..., 0] = 1
        length = self._about.matrix_shape[1]
        columns = [
            self._multiply(F.one_hot(inputs, length).to(torch.bfloat16), self._weight, self._size, ones)
            for inputs in torch.arange(length, device=ones.device).split(256)
        ]
        return replace(self._about, packed=pack(torch.cat(columns).t().to(torch.int8), self._about.bits))


class Rotated(Kernel):
    """Rotates what a layer multiplies its weight with, and lets another kernel multiply it.

    Args:
        kernel: the class of the other kernel
    """

    def __init__(self, kernel, weight, convolution=None):
        self._rotation, self._kernel = weight.rotation, kernel(weight, convolution)
        self._axis, self._count = 1 if convolution else -1, weight.shape_channels_first[1]

    def __call__(self, x):
        # in float32: 16 bits would round the inputs, and sums of large ones overflow there
        return self._kernel(self._rotation.inputs(x.float(), self._axis, self._count)).to(x.dtype)

    def weight(self):
        return self._kernel.weight()


KERNELS: Dict[str, Tuple[Type[Kernel], ...]] = {
    "int8_dynamic": (Int8Dynamic, Int8Convolution, Int8Matmul),
    "int4_weight_only": (Int4WeightOnly,),
}


def choose(
    backend: str, weight: PackedWeight, device: torch.device, convolution: Optional[Convolution] = None
) -> Tuple[Optional[Type[Kernel]], str]:
    """Choose the kernel for a layer's weight; None with a reason: the weight is decoded, for float.

    `auto` takes int8_dynamic where it can serve the weight (x86 CPU, CUDA; one scale a channel or tensor). A backend
    that is named serves the weights that it can. `dequantize` serves none: all are decoded, which is exact. A weight is
    decoded once and kept, if all of them take no more than half of the free memory; else in each call.
    """
    reasons = []
    for kernel in KERNELS.get("int8_dynamic" if backend == "auto" else backend, ()):
        reason = kernel.serves(weight, device, convolution)
        if reason is None:
            return kernel, ""
        reasons.append(f"{kernel.__name__} {reason}")
    return None, "; ".join(reasons)
