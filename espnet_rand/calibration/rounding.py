"""GPTQ (arXiv 2210.17323): weights are rounded one after another, and those to come make up for the error."""

import torch
from torch import Tensor

from espnet_rand.quantizers.grid import Grid

_BLOCK = 64  # columns, after which the others follow


def compensated(w: Tensor, s: Tensor, grid: Grid, moments: Tensor, damping: float = 0.01) -> Tensor:
    """Codes with little error of the outputs, in place of little error of the weights.

    That is tr((v - w) H (v - w)'), v the numbers that the codes stand for.

    GPTQ's Algorithm 1, with the inputs of the largest second moments first ("act-order" in its code).

    Args:
        w: (rows, n)
        s: step sizes, (rows, n), positive
        grid: what is rounded to
        moments: H, (n, n), the mean of x x' over inputs x
        damping: what is added to H's diagonal, in parts of its mean (Section 3.3, Step 3)
    Returns:
        (rows, n): codes, as floats
    """
    h = moments.double().clone()
    h.diagonal()[h.diagonal() == 0] = 1  # an input that never was: its weights are rounded to nearest
    order = h.diagonal().argsort(descending=True)
    h = h[order][:, order]
    h.diagonal().add_(damping * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    follow = torch.linalg.cholesky(inverse, upper=True).to(w.dtype)
    left, steps, codes = w[:, order], s[:, order], torch.empty_like(w)
    for start in range(0, w.shape[1], _BLOCK):
        block = slice(start, min(start + _BLOCK, w.shape[1]))
        errors = torch.zeros_like(left[:, block])
        for i in range(block.start, block.stop):
            codes[:, i] = grid.round(left[:, i], steps[:, i])
            errors[:, i - start] = (left[:, i] - grid.levels(codes[:, i]) * steps[:, i]) / follow[i, i]
            left[:, i + 1 : block.stop] -= errors[:, i - start, None] * follow[i, i + 1 : block.stop]
        left[:, block.stop :] -= errors @ follow[block, block.stop :]
    return codes.scatter(1, order.expand_as(codes), codes)
