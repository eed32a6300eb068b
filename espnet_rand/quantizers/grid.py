"""The grid: the integer codes that a weight is rounded to, the numbers that they stand for, and the step sizes.

A new grid is one class here and one line in `GRIDS`.
"""

from dataclasses import dataclass
from typing import Callable, Dict, NamedTuple, Optional, Tuple, Type, TypeVar

import torch
from torch import Tensor

_N = TypeVar("_N", float, Tensor)


class Steps(NamedTuple):
    """What a grid has for each group of a weight: code c stands for scale * (level of c - zero).

    Attributes:
        scales: step sizes, (groups,) or (groups, 1). Those of a `Signed` grid may be negative
        zeros: zero points, which are codes, likewise; None: they are 0
    """

    scales: Tensor
    zeros: Optional[Tensor] = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Steps":
        """The same with both tensors changed."""
        return Steps(change(self.scales), None if self.zeros is None else change(self.zeros))


@dataclass(frozen=True)
class Grid:
    """The symmetric grid: codes -Q-1 ... Q of so many bits, Q = 2^(bits-1) - 1. Code c stands for c steps.

    Numbers "in steps" are w / s, or w / s + z where groups have zero points. A scale gives step sizes to `rows`: to
    each group as a whole, or to its positive and its negative weights. `place` makes the steps of groups of them.

    Below, s and z are the step sizes and zero points of weights: in their shape, or with an axis of 1. z may be None.
    """

    bits: int

    #: How many rows a group has: 1, or 2 where positive and negative weights have a scale of their own.
    sides = 1
    #: Whether groups have zero points.
    shifted = False
    #: Whether step sizes may be negative.
    signed = False
    #: What levels are multiplied by to be integers, where that is possible (see `has_integers`).
    parts = 1

    @property
    def high(self) -> int:
        """Q, the largest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def low(self) -> int:
        """The least code."""
        return -(2 ** (self.bits - 1))

    @property
    def count(self) -> float:
        """The number of steps that span the numbers from 0 to the largest."""
        return self.high

    @property
    def reach(self) -> float:
        """The number of steps from 0 to where the grid ends on its longer side."""
        return -self.low

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
        return span / self.count

    def span(self, step: _N) -> _N:
        """The number that codes with this step size span; undoes `step`."""
        return step * self.count

    def rows(self, w: Tensor) -> Tensor:
        """The weights, (groups, members), as rows, (groups * sides, members)."""
        if self.sides == 1:
            return w
        return torch.stack([w.clamp(min=0), w.clamp(max=0)], 1).flatten(0, 1)

    def whole(self, rows: Tensor) -> Tensor:
        """The weights, (groups, members); undoes `rows`."""
        return rows if self.sides == 1 else rows.unflatten(0, (-1, 2)).sum(1)

    def place(self, steps: Tensor) -> Steps:
        """The steps of groups, (groups, 1), from those of their rows, (groups, sides), which are not negative."""
        return Steps(steps)

    def unplace(self, s: Tensor, z: Optional[Tensor], w: Tensor) -> Tensor:
        """The steps of rows, (groups, sides), with which `place` rounds weights w, (groups, members), by s and z."""
        return s

    def codes_(self, x: Tensor) -> Tensor:
        """Round numbers in steps to codes, as floats, in place."""
        return x.round_().clamp_(self.low, self.high)

    def levels(self, codes: Tensor) -> Tensor:
        """The numbers, in steps, that codes stand for: integers or floats, perhaps the codes themselves."""
        return codes

    @property
    def has_integers(self) -> bool:
        """Whether all levels are integers in parts of a step, which integer kernels and runtimes compute with."""
        if type(self) is Grid:
            return True
        levels = self.parts * self.levels(torch.arange(self.low, self.high + 1.0))
        return torch.equal(levels, levels.round())

    def round(self, w: Tensor, s: Tensor, z: Optional[Tensor] = None) -> Tensor:
        """Round weights to codes, as floats of w's shape."""
        x = w / s
        return self.codes_(x if z is None else x.add_(z)).add_(0)  # (-0 + 0 is 0: an integer has no -0)

    def values(self, codes: Tensor, s: Tensor, z: Optional[Tensor] = None) -> Tensor:
        """The numbers that codes, floats that may be overwritten, stand for."""
        levels = self.levels(codes)
        return (levels if z is None else levels.sub_(z)).mul_(s)

    def nearest(self, w: Tensor, s: Tensor, z: Optional[Tensor] = None) -> Tensor:
        """The numbers that weights are rounded to."""
        return self.values(self.round(w, s, z), s, z)


class HalfStep(Grid):
    """Levels half a step beside integers, without 0: code c stands for c + 1/2 steps, -Q-1/2 ... Q+1/2."""

    parts = 2

    @property
    def rounding_bounds(self):
        return float(self.low), float(self.high + 1)

    noise_bounds = rounding_bounds

    @property
    def count(self):
        return self.high + 0.5

    def codes_(self, x):
        return x.floor_().clamp_(self.low, self.high)

    def levels(self, codes):
        return codes + 0.5


class _TwoSided(Grid):
    """A grid for which a positive and a negative side of each group have step sizes of their own."""

    sides = 2


class Signed(_TwoSided):
    """The symmetric grid with steps of either sign: the outermost code, -Q-1, is for the side that spans more.

    With the largest weight as the span, that one falls on code -Q-1 (ggml's q4_0, ggml-quants.c).
    """

    signed = True

    @property
    def noise_bounds(self):
        return self.rounding_bounds

    @property
    def count(self):
        return self.high + 1

    def place(self, steps):
        positive, negative = steps.split(1, 1)
        return Steps(torch.where(positive >= negative, -positive, negative))

    def unplace(self, s, z, w):
        positive, negative = _sides_that_are(w)
        # a side without weights has no step; that of the other sign gives the same numbers, but for clipped weights
        wider = torch.where(s < 0, positive, ~negative)
        return torch.where(torch.cat([wider, ~wider], 1), s.abs(), s.abs() / 2)


class Asymmetric(_TwoSided):
    """Codes with a zero point z, an integer code, for each group: code c stands for c - z steps.

    Each side has its span: S+ of the positive weights, S- of the negative ones. 2^bits - 1 steps span both together,
    s = (S+ + S-) / (2^bits - 1), and z is where S- ends: -Q-1 + round(S- / s). With the largest weight of each side as
    its span these are the affine grids of ONNX (QuantizeLinear), which hold 0.
    """

    shifted = True

    @property
    def count(self):
        return self.high - self.low

    reach = count

    @property
    def noise_bounds(self):
        return self.rounding_bounds

    def place(self, steps):
        s = steps.sum(1, keepdim=True)
        z = self.low + self.count * (steps[:, 1:] / s)  # (in this order its gradient is finite for the tiniest s)
        return Steps(s, z + (z.round() - z).detach())  # straight-through: a clipped weight widens its own side

    def unplace(self, s, z, w):
        positive, negative = _sides_that_are(w)
        part, least = (z - self.low) / self.count, 0.25 / self.count  # a side that is there, and has no code
        part = torch.where(negative, part.clamp(least, 1 - least), 0)
        part = torch.where(positive, part, 1)
        return torch.cat([s * (1 - part), s * part], 1)


def _sides_that_are(w: Tensor) -> Tuple[Tensor, Tensor]:
    """Whether groups of weights, (groups, members), have positive ones, and negative ones, (groups, 1)."""
    return (w > 0).any(1, keepdim=True), (w < 0).any(1, keepdim=True)


GRIDS: Dict[str, Type[Grid]] = {
    "symmetric": Grid,
    "signed": Signed,
    "half_step": HalfStep,
    "asymmetric": Asymmetric,
}


def grid_name(kind: Type[Grid]) -> str:
    """A grid's name in `GRIDS`."""
    return next(name for name, known in GRIDS.items() if known is kind)


def wrong_steps(scales: Tensor, grid: Grid) -> Tensor:
    """Whether step sizes are wrong, as booleans: right ones are finite and positive, or negative for a signed grid."""
    return ~(torch.isfinite(scales) & ((scales.abs() if grid.signed else scales) > 0))
