"""Axis 2: the estimator, how training sees the rounding.

A new estimator is one class here and one line in `ESTIMATORS`.
"""

from dataclasses import dataclass
from typing import Dict, Optional, Type

import torch
from torch import Tensor
from torch.autograd import Function

from espnet_rand.quantizers.options import Options, one_of, option


def round_to_grid(w: Tensor, s: Tensor, q: int) -> Tensor:
    """Integer codes clip(round(w / s), -Q-1, Q), as floats of w's shape (shared/method.md, Notation)."""
    return (w / s).round_().clamp_(-q - 1, q)


@dataclass(frozen=True)
class Estimator(Options):
    """The weight that a training forward computes with."""

    def __call__(self, w: Tensor, s: Tensor, q: int, generator: Optional[torch.Generator]) -> Tensor:
        """
        Args:
            w: (groups, members)
            s: step sizes, (groups, 1), positive
            q: the largest code Q
            generator: source of the noise; None is torch's own
        Returns:
            (groups, members), differentiable in w and s
        """
        raise NotImplementedError


@dataclass(frozen=True)
class StraightThrough(Estimator):
    """Rounds; the gradient passes through the rounding (LSQ, arXiv 1902.08153, Equations 3 and 5)."""

    def __call__(self, w, s, q, generator=None):
        return _RoundStraightThrough.apply(w, s, q)


class _RoundStraightThrough(Function):
    @staticmethod
    def forward(ctx, w, s, q):
        ctx.save_for_backward(w, s)
        ctx.q = q
        return round_to_grid(w, s, q).mul_(s)

    @staticmethod
    def backward(ctx, grad):
        w, s = ctx.saved_tensors
        x = w / s
        rounded = x.round()
        code = rounded.clamp(-ctx.q - 1, ctx.q)
        inside = code == rounded
        grad_w = torch.where(inside, grad, 0)
        grad_s = None
        if ctx.needs_input_grad[1]:
            # round(x) - x inside the range, -Q-1 or Q outside
            grad_s = (code.sub_(torch.where(inside, x, 0)).mul_(grad)).sum(1, keepdim=True)
        return grad_w, grad_s, None


@dataclass(frozen=True)
class Noise(Estimator):
    """Pseudo-quantization noise: clip(w, -(Q+1/2) s, (Q+1/2) s) + s u, fresh for every forward.

    u is uniform on (-1/2, 1/2), or normal of the same variance 1/12 (google/praxis
    `fakequant_vn`; DiffQ, arXiv 2104.09987, Equation 5).
    """

    noise: str = option("uniform", one_of("uniform", "normal"))

    def __call__(self, w, s, q, generator=None):
        u = torch.empty_like(w)
        if self.noise == "uniform":
            u.uniform_(-0.5, 0.5, generator=generator)
        else:
            u.normal_(0, 12**-0.5, generator=generator)
        return _AddNoise.apply(w, s, q, u)


class _AddNoise(Function):
    @staticmethod
    def forward(ctx, w, s, q, u):
        bound = (q + 0.5) * s
        noisy = torch.clamp(w, -bound, bound).addcmul_(s, u)
        # the noise itself is not kept: backward finds it in the result, which the layer keeps anyway
        ctx.save_for_backward(w, s, noisy)
        ctx.q = q
        return noisy

    @staticmethod
    def backward(ctx, grad):
        w, s, noisy = ctx.saved_tensors
        bound = (ctx.q + 0.5) * s
        clipped = torch.clamp(w, -bound, bound)
        inside = clipped == w
        grad_w = torch.where(inside, grad, 0)
        grad_s = None
        if ctx.needs_input_grad[1]:
            # noisy / s = u inside the range, u -(Q+1/2) or u + (Q+1/2) outside
            share = noisy - torch.where(inside, clipped, 0)
            grad_s = share.mul_(grad).sum(1, keepdim=True) / s
        return grad_w, grad_s, None, None


ESTIMATORS: Dict[str, Type[Estimator]] = {"ste": StraightThrough, "pqn": Noise}
