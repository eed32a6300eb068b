"""The estimator: how training sees the rounding.

A new estimator is one class here and one line in `ESTIMATORS`.
"""

from dataclasses import dataclass
from typing import Callable, Dict, Optional, Type

import torch
from torch import Tensor
from torch.autograd import Function

from espnet_rand.options import Options, one_of, option
from espnet_rand.quantizers.grid import Grid
from espnet_rand.quantizers.rows import rowwise


@dataclass(frozen=True)
class Estimator(Options):
    """Fake-quantizes a weight: makes what a training forward computes with."""

    def __call__(
        self, w: Tensor, s: Tensor, grid: Grid, generator: Optional[torch.Generator], z: Optional[Tensor] = None
    ) -> Tensor:
        """Fake-quantize a weight.

        Args:
            w: (groups, members)
            s: step sizes, (groups, 1), not 0
            grid: what evaluation rounds to
            generator: source of the noise; None: torch's own
            z: zero points, (groups, 1); None: they are 0
        Returns:
            (groups, members), differentiable in w, s and z
        """
        raise NotImplementedError


@dataclass(frozen=True)
class StraightThrough(Estimator):
    """Rounds; the gradient passes through the rounding (LSQ, arXiv 1902.08153, Equations 3 and 5)."""

    def __call__(self, w, s, grid, generator=None, z=None):
        return _RoundStraightThrough.apply(w, s, z, grid)


class _RoundStraightThrough(Function):
    @staticmethod
    def forward(ctx, w, s, z, grid):
        ctx.save_for_backward(w, s, z)
        ctx.grid = grid
        return _rounded(w, s, z, grid)

    @staticmethod
    def backward(ctx, grad):
        w, s, z = ctx.saved_tensors
        return (*_rounded_backward(grad, w, s, z, ctx.grid, *ctx.needs_input_grad[1:3]), None)


@rowwise
def _rounded(w: Tensor, s: Tensor, z: Optional[Tensor], grid: Grid) -> Tensor:
    return grid.nearest(w, s, z)


@rowwise
def _rounded_backward(
    grad: Tensor, w: Tensor, s: Tensor, z: Optional[Tensor], grid: Grid, to_scale: bool, to_zero: bool
):
    low, high = grid.rounding_bounds
    x = w / s if z is None else (w / s).add_(z)
    inside = _pass_inside(grad, x, low, high)
    if not to_scale:
        return inside, None, None
    finite = x.clamp(low - 0.5, high + 0.5)
    # round(x) - x inside the range, its ends outside, seen from the zero point
    level = grid.levels(grid.codes_(x))
    if z is not None:
        level, finite = level.sub_(z), finite.sub_(z)
    zero = _to_zero(grad, inside, s) if to_zero else None
    return inside, level.mul_(grad).addcmul_(inside, finite, value=-1).sum(1, keepdim=True), zero


def _to_zero(grad: Tensor, inside: Tensor, s: Tensor) -> Tensor:
    """The gradient of zero points, (groups, 1): that of clipped weights, which lie at an end of the range, -s each."""
    return (inside - grad).sum(1, keepdim=True) * s


def _pass_inside(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """The gradient of a clip: grad where low < x < high, else 0. (torch's own kernel; masks are 5 times slower.)"""
    return torch.ops.aten.hardtanh_backward(grad, x, low, high)


@dataclass(frozen=True)
class Noise(Estimator):
    """Pseudo-quantization noise: clip(w, -(Q+1/2) s, (Q+1/2) s) + s u, fresh for every forward.

    The bounds are those of the symmetric grid; others have their own.

    u is uniform on (-1/2, 1/2), or normal of the same variance 1/12 (google/praxis
    `fakequant_vn`; DiffQ, arXiv 2104.09987, Equation 5).
    """

    noise: str = option("uniform", one_of("uniform", "normal"))

    def __call__(self, w, s, grid, generator=None, z=None):
        return _AddNoise.apply(w, s, z, grid, _NOISES[self.noise], generator)


def _uniform(like: Tensor, generator: Optional[torch.Generator]) -> Tensor:
    """Noise that is uniform on (-1/2, 1/2), in steps of 2^-16.

    Four numbers come from each 64 random bits, which is faster on a CPU.
    """
    bits = torch.empty((like.numel() + 3) // 4, dtype=torch.int64, device=like.device)
    bits.random_(-(2**63), None, generator=generator)
    steps = bits.view(torch.int16)[: like.numel()].view(like.shape)
    return steps.to(like.dtype).mul_(2**-16).add_(2**-17)


def _normal(like: Tensor, generator: Optional[torch.Generator]) -> Tensor:
    """Noise that is normal with the variance of `_uniform`, 1/12."""
    return torch.empty_like(like).normal_(0, 12**-0.5, generator=generator)


_NOISES = {"uniform": _uniform, "normal": _normal}


class _AddNoise(Function):
    @staticmethod
    def forward(ctx, w, s, z, grid, draw, generator):
        noisy = _noisy(w, s, z, grid, draw, generator)
        # the noise is not kept: backward finds it in the result, which the layer keeps anyway
        ctx.save_for_backward(w, s, z, noisy)
        ctx.grid = grid
        return noisy

    @staticmethod
    def backward(ctx, grad):
        w, s, z, noisy = ctx.saved_tensors
        return (*_noisy_backward(grad, w, s, z, noisy, ctx.grid, *ctx.needs_input_grad[1:3]), None, None, None)


@rowwise
def _noisy(
    w: Tensor, s: Tensor, z: Optional[Tensor], grid: Grid, draw: Callable, generator: Optional[torch.Generator]
) -> Tensor:
    ends = [(end if z is None else end - z) * s for end in grid.noise_bounds]
    low, high = torch.minimum(*ends), torch.maximum(*ends)  # a step may be negative
    return torch.minimum(torch.maximum(w, low), high).addcmul_(s, draw(w, generator))


@rowwise
def _noisy_backward(
    grad: Tensor,
    w: Tensor,
    s: Tensor,
    z: Optional[Tensor],
    noisy: Tensor,
    grid: Grid,
    to_scale: bool,
    to_zero: bool,
):
    x = w / s if z is None else (w / s).add_(z)
    inside = _pass_inside(grad, x, *grid.noise_bounds)
    if not to_scale:
        return inside, None, None
    # u inside the range, u and its end outside, seen from the zero point
    zero = _to_zero(grad, inside, s) if to_zero else None
    return inside, (noisy * grad).addcmul_(inside, w, value=-1).sum(1, keepdim=True) / s, zero


ESTIMATORS: Dict[str, Type[Estimator]] = {"ste": StraightThrough, "pqn": Noise}
