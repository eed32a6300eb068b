"""The grid: the integer codes that a weight is rounded to, -Q-1 ... Q, and the step sizes that it may have."""

import torch
from torch import Tensor


def largest_code(bits: int) -> int:
    """Q = 2^(bits-1) - 1, the largest integer code."""
    return 2 ** (bits - 1) - 1


def round_to_grid(w: Tensor, s: Tensor, q: int) -> Tensor:
    """Integer codes clip(round(w / s), -Q-1, Q), as floats of w's shape."""
    return (w / s).round_().clamp_(-q - 1, q).add_(0)  # (-0 + 0 is 0: an integer has no -0)


def wrong_steps(steps: Tensor) -> Tensor:
    """Which step sizes no weight has, as booleans: they must be finite and positive."""
    return ~(torch.isfinite(steps) & (steps > 0))
