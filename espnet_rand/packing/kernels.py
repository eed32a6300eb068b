"""Integer compute: torch's own kernels behind one interface.

A backend is one class here and one line in `KERNELS`. The rule of `auto` is `choose`.
"""

import math
import warnings
from typing import Dict, Optional, Type

import torch
from torch import Tensor

from espnet_rand.packing.file import PackedWeight
from espnet_rand.quantizers import PerGroup


class Kernel:
    """A weight of a linear map, (out, in), that is multiplied without a float copy of it.

    Args:
        weight: its `rows` are (out, in) or (out, in, 1)
    """

    @staticmethod
    def serves(weight: PackedWeight, device: torch.device) -> Optional[str]:
        """Why this kernel cannot compute with a weight on a device; None if it can."""
        raise NotImplementedError

    def __init__(self, weight: PackedWeight):
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """x, (..., in), times the weight's transpose: (..., out), in x's dtype."""
        raise NotImplementedError


class Int8Dynamic(Kernel):
    """The codes as they are, as int8; x rounded to 8 bits in each call (one scale for all of it).

    Without VNNI instructions pairs of products are summed in 16 bits, which 8-bit codes times 8-bit
    numbers overflow: for these x is then rounded to 7 bits.
    """

    @staticmethod
    def serves(weight, device):
        if device.type != "cpu" or torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"):
            return "int8_dynamic needs an x86 CPU"
        if isinstance(weight.granularity, PerGroup):
            return "int8_dynamic has one scale a channel, not one a group"
        return None

    def __init__(self, weight):
        self._seven_bits = weight.bits == 8 and not torch.cpu._is_vnni_supported()
        codes = weight.codes().flatten(1)
        scales = weight.scales.double().expand(len(codes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants torchao instead, which has no such kernel for a CPU
            tensor = torch._make_per_channel_quantized_tensor(codes, scales, torch.zeros_like(scales).long(), 0)
            self._weight = torch.ops.quantized.linear_prepack(tensor, None)

    def __call__(self, x):
        # (the kernel wants at least two dimensions, and searches pass one)
        flat = x.reshape(-1, x.shape[-1])
        y = torch.ops.quantized.linear_dynamic(flat.float(), self._weight, self._seven_bits)
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


class Int4WeightOnly(Kernel):
    """Codes of 4 bits or fewer in torch's int4 layout; computes in bfloat16, the scales rounded to it."""

    @staticmethod
    def _group(weight: PackedWeight) -> Optional[int]:
        """A group size that the kernel knows and that divides what shares a scale."""
        length = math.prod(weight.rows[1:])
        size = weight.granularity.group_size if isinstance(weight.granularity, PerGroup) else length
        sizes = [n for n in (256, 128, 64, 32) if length % n == 0 and (size >= length or size % n == 0)]
        return sizes[0] if sizes else None

    @staticmethod
    def serves(weight, device):
        if device.type != "cpu":
            return "int4_weight_only is for CPUs"
        if weight.bits > 4:
            return f"int4_weight_only holds 4 bits, not {weight.bits}"
        if weight.rows[0] % 16 or Int4WeightOnly._group(weight) is None:
            return "int4_weight_only needs a multiple of 16 outputs, and groups of a multiple of 32"
        return None

    def __init__(self, weight):
        codes = weight.codes().flatten(1)
        out, length = codes.shape
        self._size = self._group(weight)
        per_row = weight.scales.expand(out) if weight.scales.numel() == 1 else weight.scales
        scales = per_row.view(out, -1).repeat_interleave(length // self._size // (per_row.numel() // out), 1)
        zeros = torch.zeros_like(scales)
        self._scales = torch.stack([scales, zeros], 2).transpose(0, 1).to(torch.bfloat16).contiguous()
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu((codes + 8).int(), 2)

    def __call__(self, x):
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16).contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self._weight, self._size, self._scales)
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


KERNELS: Dict[str, Type[Kernel]] = {"int8_dynamic": Int8Dynamic, "int4_weight_only": Int4WeightOnly}
BACKENDS = ("auto", *KERNELS, "dequantize")


def choose(backend: str, weight: PackedWeight, device: torch.device) -> Optional[Type[Kernel]]:
    """The kernel for a linear map's weight; None: decode it once and compute in float.

    `auto`: int8_dynamic where it can serve the weight (x86 CPU; one scale a channel or tensor),
    else decoded. A backend that is named serves the weights that it can, the others are decoded;
    `dequantize` decodes all, which is exact.
    """
    kernel = KERNELS.get("int8_dynamic" if backend == "auto" else backend)
    return kernel if kernel and kernel.serves(weight, device) is None else None
