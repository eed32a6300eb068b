"""GPTQ (arXiv 2210.17323): rounds weights one after another, and lets those to come make up for the error."""

import functools
from typing import Optional

import torch
from torch import Tensor

from espnet_rand.quantizers.grid import Grid, Steps

_BLOCK = 64  # columns, after which the columns behind them are corrected


def compensated(
    w: Tensor, s: Tensor, grid: Grid, moments: Tensor, damping: float = 0.01, z: Optional[Tensor] = None
) -> Tensor:
    """Choose codes with little error of the outputs, in place of little error of the weights.

    The error is tr((v - w) H (v - w)'), v the numbers that the codes stand for. The way is GPTQ's Algorithm 1, with the
    inputs of the largest second moments first ("act-order" in its code).

    Args:
        w: the weights, (channels, n)
        s: step sizes, (channels, n), not 0
        grid: what is rounded to
        moments: H, (n, n), the mean of x x' over inputs x
        damping: what is added to H's diagonal, in parts of its mean (Section 3.3, Step 3)
        z: zero points, (channels, n); None: they are 0

    Returns:
        codes, as floats, (channels, n)
    """
    h = moments.double().clone()
    h.diagonal()[h.diagonal() == 0] = 1  # an input that never was: its weights are rounded to nearest
    order = h.diagonal().argsort(descending=True)
    h = h[order][:, order]
    h.diagonal().add_(damping * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    factor = torch.linalg.cholesky(inverse, upper=True).to(w.dtype)
    left, codes = w[:, order], torch.empty_like(w)
    steps = Steps(s, z).each(lambda one: one[:, order])
    for start in range(0, w.shape[1], _BLOCK):
        block = slice(start, min(start + _BLOCK, w.shape[1]))
        errors = torch.zeros_like(left[:, block])
        for i in range(block.start, block.stop):
            now = steps.each(functools.partial(torch.select, dim=1, index=i))
            codes[:, i] = grid.round(left[:, i], *now)
            errors[:, i - start] = (left[:, i] - grid.values(codes[:, i].clone(), *now)) / factor[i, i]
            left[:, i + 1 : block.stop] -= errors[:, i - start, None] * factor[i, i + 1 : block.stop]
        left[:, block.stop :] -= errors @ factor[block, block.stop :]
    return codes.scatter(1, order.expand_as(codes), codes)
