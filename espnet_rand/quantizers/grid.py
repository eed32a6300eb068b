"""The grid: the integer codes that a weight is rounded to, the numbers that they stand for, and the step sizes.

A new grid is one class here and one line in `GRIDS`. The second grid brings an option `grid` in config.py. (There is no
such option yet, as every config.yaml would hold it.)
"""

from dataclasses import dataclass
from typing import Dict, Tuple, Type, TypeVar

import torch
from torch import Tensor

_N = TypeVar("_N", float, Tensor)


@dataclass(frozen=True)
class Grid:
    """The symmetric grid: codes -Q-1 ... Q of so many bits, Q = 2^(bits-1) - 1. Code c stands for c steps.

    Numbers "in steps" are w / s. Another grid changes what codes stand for, and not the codes, which files hold. A grid
    of half steps, c + 1/2, has its own `codes_`, `levels`, `step`, `span` and bounds. A grid with a zero point z, an
    integer for each group, is this grid for the weights w + z s: whoever rounds them adds z s before, and keeps z.
    """

    bits: int

    @property
    def high(self) -> int:
        """Q, the largest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def low(self) -> int:
        """The least code."""
        return -(2 ** (self.bits - 1))

    @property
    def rounding_bounds(self) -> Tuple[float, float]:
        """The numbers, in steps, between which a weight rounds to a code without being clipped."""
        return self.low - 0.5, self.high + 0.5

    @property
    def noise_bounds(self) -> Tuple[float, float]:
        """The numbers, in steps, between which a weight stays that gets noise in place of rounding."""
        return -self.high - 0.5, self.high + 0.5

    def step(self, span: _N) -> _N:
        """The step size with which the codes span the numbers from 0 to `span`."""
        return span / self.high

    def span(self, step: _N) -> _N:
        """The number that codes with this step size span; undoes `step`."""
        return step * self.high

    def codes_(self, x: Tensor) -> Tensor:
        """Round numbers in steps to codes, as floats, in place."""
        return x.round_().clamp_(self.low, self.high)

    def levels(self, codes: Tensor) -> Tensor:
        """The numbers, in steps, that codes stand for: integers or floats, perhaps the codes themselves."""
        return codes

    def round(self, w: Tensor, s: Tensor) -> Tensor:
        """Round weights with step sizes s to codes, as floats of w's shape."""
        return self.codes_(w / s).add_(0)  # (-0 + 0 is 0: an integer has no -0)

    def nearest(self, w: Tensor, s: Tensor) -> Tensor:
        """The numbers that weights with step sizes s are rounded to."""
        return self.levels(self.round(w, s)).mul_(s)


GRIDS: Dict[str, Type[Grid]] = {"symmetric": Grid}


def grid_name(kind: Type[Grid]) -> str:
    """A grid's name in `GRIDS`, for files and keys. It is empty for the symmetric grid, which they leave out."""
    return "" if kind is Grid else next(name for name, known in GRIDS.items() if known is kind)


def wrong_steps(steps: Tensor) -> Tensor:
    """Whether step sizes are wrong, as booleans: a right one is finite and positive."""
    return ~(torch.isfinite(steps) & (steps > 0))
