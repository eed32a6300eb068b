"""The scale: gives each group of a weight, or each of a group's sides (see `Grid.rows`), its step size.

A new scale is one class here and one line in `SCALES`.
"""

import math
from dataclasses import dataclass
from typing import Dict, Optional, Type, Union

import torch
from torch import Tensor
from torch.autograd import Function

from espnet_rand.options import OptionError, Options, integer, number, one_of, option, plain
from espnet_rand.quantizers.grid import Grid
from espnet_rand.quantizers.rows import rowwise


@dataclass(frozen=True)
class Scale(Options):
    """Computes the step size s of each row: s = S(w) / Q, with S(w) the range that Q codes span.

    A row is a group; for grids of two sides, a group's positive or its negative weights, with zeros for the others. The
    grid says how many steps span a row's S(w): Q of the symmetric grid.
    """

    @property
    def learned(self) -> bool:
        """Whether the scale has a parameter of its own, of shape (rows,)."""
        return False

    @property
    def tied(self) -> bool:
        """Whether that parameter belongs to the number of bits that it was learned with."""
        return False

    @property
    def meaning(self) -> str:
        """A word for how the scale is computed, in letters and digits.

        A learned scale's word says how it is computed from its parameter. Learned scales of one meaning can take over
        each other's values.
        """
        return plain(str(self))

    def step(self, w: Tensor, grid: Grid, members: Union[int, Tensor], parameter: Optional[Tensor]) -> Tensor:
        """The step size, differentiable.

        Args:
            w: (rows, members), zeros where a group is shorter than the others
            grid: what is rounded to
            members: number of weights in a group, or (rows, 1)
            parameter: the learned parameter, (rows,); None: the scale is not learned
        Returns:
            (rows, 1), not negative
        """
        raise NotImplementedError

    def initial(self, w: Tensor, grid: Grid, members: Union[int, Tensor]) -> Tensor:
        """The learned parameter's starting value, (rows,), from the weights."""
        raise NotImplementedError

    def parameter(self, w: Tensor, grid: Grid, step: Tensor) -> Tensor:
        """The learned parameter, (rows,), with which the weights have the step sizes `step`, (rows, 1)."""
        raise NotImplementedError

    def shown(self, parameter: Tensor) -> Dict[str, Tensor]:
        """The numbers beside the step sizes that a learned parameter stands for, each (rows,), by name, for curves."""
        return {}


@dataclass(frozen=True)
class AbsMax(Scale):
    """S = max |w|, without a gradient (google/praxis `fakequant_vn` with stop_scale_gradient)."""

    @property
    def meaning(self) -> str:
        return "absmax"

    def step(self, w, grid, members, parameter):
        return grid.step(norm(w.detach(), math.inf))


@dataclass(frozen=True)
class Rand(Scale):
    """S = c ||w||_p, differentiable in the weights (RAND, arXiv 2305.15536, abstract).

    mode 1: p = infinity, c = 1: the largest weight
    mode 2: c from k (`c`): `ties`, c = k^(-1/p), exact when k weights tie for the largest; `mean`,
        c = k d^(-1/p) with d the members of a group, so that S is k times the p-mean of the weights, however
        many share it. The two are the same at d = 512, k = 2, p = 8
    mode 3: c learned, log domain, starting where clip search puts it (`init: clip`) or as in
        mode 2 (`init: norm`)
    Both formulas of c, and the learned c, are this project's readings of the paper. So is a group with two sides
    (`Grid.rows`): each has its own S = c ||w||_p of its weights alone, and so its own outliers are what it regularizes.
    """

    mode: int = option(3, one_of(1, 2, 3))
    p: float = option(8, number(1))
    k: float = option(2, number(1, 1000000))
    init: str = option("clip", one_of("norm", "clip"))
    c: str = option("ties", one_of("ties", "mean"))

    @property
    def idle(self):
        return {1: ("p", "k", "init"), 2: ("init",), 3: ()}[self.mode]

    @property
    def learned(self) -> bool:
        return self.mode == 3

    @property
    def meaning(self) -> str:
        if self.learned:
            return plain(f"rand{self.mode}p{float(self.p)}".removesuffix(".0"))  # the others say where it starts
        return "rand1" if self.mode == 1 else plain(f"rand2p{float(self.p)}k{float(self.k)}{self.c}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == 1 and self.c != "ties":
            raise OptionError(f"c: {self.c} is of modes 2 and 3: in mode 1 S is the largest weight")

    def _order(self) -> float:
        return math.inf if self.mode == 1 else self.p

    def _c(self, w: Tensor, members: Union[int, Tensor]) -> Union[float, Tensor]:
        """The factor c where it is not learned: one for all groups, or (groups, 1)."""
        if self.c == "ties":
            return self.k ** (-1 / self._order())
        if isinstance(members, int):
            return self.k * members ** (-1 / self._order())
        return self.k * members.to(w.dtype) ** (-1 / self._order())

    def step(self, w, grid, members, parameter):
        c = parameter.unsqueeze(1).exp() if self.learned else self._c(w, members)
        return norm(w, self._order()) * grid.step(c)

    def initial(self, w, grid, members):
        if self.init == "norm":
            return (w.new_ones(w.shape[0], 1) * self._c(w, members)).log().squeeze(1)
        return self.parameter(w, grid, Clip().step(w, grid, members, None))

    def parameter(self, w, grid, step):
        tiny, size = torch.finfo(w.dtype).tiny, norm(w, self._order())
        ratio = grid.span(step).clamp(min=tiny) / size.clamp(min=tiny)
        return ratio.where(size > 0, 1).clamp(max=1 / tiny).log().squeeze(1)

    def shown(self, parameter):
        return {"c": parameter.exp()}


@dataclass(frozen=True)
class LearnedScale(Scale):
    """Learnable scale and clip: s is a free parameter (LSQ, arXiv 1902.08153, Sections 2.1 and 2.2).

    Its gradient is scaled by 1 / sqrt(d Q), d the members of the group. Starting values:
    `lsq+`: max(|mean - 3 std|, |mean + 3 std|) / 2^(b-1), or by the reach of another grid (LSQ+, arXiv 2004.09576,
    Section 3.3); the two sides of a group reach to mean + 3 std and mean - 3 std, but not beyond their largest weights,
    `lsq`: 2 mean|w| / sqrt(Q) (LSQ, Section 2.1), `absmax`, or `clip` (clip search).
    """

    init: str = option("clip", one_of("lsq+", "lsq", "absmax", "clip"))

    @property
    def learned(self) -> bool:
        return True

    @property
    def tied(self) -> bool:
        return True

    @property
    def meaning(self) -> str:
        return "lsc"

    def step(self, w, grid, members, parameter):
        if isinstance(members, int):
            factor = 1 / math.sqrt(members * grid.high)
        else:
            factor = (members.to(w.dtype) * grid.high).rsqrt().squeeze(1)
        s = _ScaleGradient.apply(parameter, factor)
        # a step below zero means the same grid; at zero (weights that start as zeros) it can still grow
        return (torch.where(s < 0, -s, s) + 2 * torch.finfo(w.dtype).tiny).unsqueeze(1)

    def initial(self, w, grid, members):
        w = w.detach()
        if self.init == "absmax":
            s = AbsMax().step(w, grid, members, None)
        elif self.init == "clip":
            s = Clip().step(w, grid, members, None)
        elif self.init == "lsq":
            s = 2 * w.abs().sum(1, keepdim=True) / members / math.sqrt(grid.high)
        else:
            s = self._spread(w, grid, members) / grid.reach
        return self.parameter(w, grid, s)

    @staticmethod
    def _spread(w: Tensor, grid: Grid, members: Union[int, Tensor]) -> Tensor:
        """How far rows reach by the mean and the deviation of their whole groups, (rows, 1)."""
        # scaled by the largest weight, so that squares neither overflow nor vanish
        x = grid.whole(w)
        largest = norm(x, math.inf).clamp(min=torch.finfo(w.dtype).tiny)
        x, members = x / largest, members if isinstance(members, int) else members[:: grid.sides]
        mean = x.sum(1, keepdim=True) / members
        far = 3 * (x.square().sum(1, keepdim=True) / members - mean.square()).clamp(min=0).sqrt()
        if grid.sides == 1:
            return (mean.abs() + far) * largest
        sides = (torch.cat([far + mean, far - mean], 1).clamp(min=0) * largest).view(-1, 1)
        return torch.minimum(sides, norm(w, math.inf))

    def parameter(self, w, grid, step):
        return step.squeeze(1)


@dataclass(frozen=True)
class Clip(Scale):
    """S = a max |w|, a in [a_min, 1] with the least error of the rounded weight; no gradient.

    A grid of `candidates` values, as in google/praxis (min_clipping, num_optimize_clipping);
    `error` is that of the sum of squares, or of absolute differences.
    """

    a_min: float = option(0.25, number(0.01, 1))
    candidates: int = option(16, integer(1, 1000))
    error: str = option("squared", one_of("squared", "absolute"))

    @property
    def meaning(self) -> str:
        return plain(f"clip{float(self.a_min)}by{self.candidates}{self.error}")

    def step(self, w, grid, members, parameter):
        short = None if isinstance(members, int) else members.view(-1, grid.sides)[:, :1]
        used = None if short is None else torch.arange(w.shape[1], device=w.device) < short
        return clip_search(grid.whole(w), grid, self, used).view(-1, 1)


@rowwise
def clip_search(w: Tensor, grid: Grid, options: Clip, importance: Optional[Tensor] = None) -> Tensor:
    """Search the step sizes of `Clip`, (groups, sides): a for all sides of a group, then for each of two by itself.

    Args:
        w: (groups, members)
        grid: what is rounded to
        importance: factors on the weights' errors, (groups, members); None: all are 1
    """
    top = _norm(w, math.inf).clamp_(min=torch.finfo(w.dtype).tiny)
    x = w / top
    ends = _norm(grid.rows(x), math.inf).view(-1, grid.sides)
    best = torch.ones_like(ends)
    least = torch.full_like(top, math.inf)
    for side in (slice(None), 0, 1)[: 3 if grid.shifted else 1]:
        for a in torch.linspace(1, options.a_min, options.candidates).tolist():
            tried = best.clone()
            tried[:, side] = a
            steps = grid.step(tried * ends).clamp_(min=torch.finfo(w.dtype).tiny)
            difference = grid.nearest(x, *grid.place(steps)).sub_(x)
            error = difference.square_() if options.error == "squared" else difference.abs_()
            error = (error if importance is None else error.mul_(importance)).sum(1, keepdim=True)
            best = torch.where(error < least, tried, best)
            least = torch.minimum(error, least)
    return grid.step(best * ends * top)


SCALES: Dict[str, Type[Scale]] = {
    "rand": Rand,
    "absmax": AbsMax,
    "lsc": LearnedScale,
    "clip": Clip,
}


def norm(w: Tensor, p: float) -> Tensor:
    """The norm ||w||_p of each row of (groups, members), as (groups, 1), p in [1, inf].

    It is computed on w / max|w|, so that a large p neither overflows nor underflows. Its gradient
    is sign(w_i) (|w_i| / ||w||_p)^(p-1). For p = inf the gradient goes to the largest weights, shared
    evenly where several tie. For a row of zeros it is zero.
    """
    return _Norm.apply(w, p)


class _Norm(Function):
    """Computes `norm`, and keeps nothing but the weights for the backward pass."""

    @staticmethod
    def forward(ctx, w, p):
        value = _norm(w, p)
        ctx.save_for_backward(w, value)
        ctx.p = p
        return value

    @staticmethod
    def backward(ctx, grad):
        w, value = ctx.saved_tensors
        return _norm_backward(w, value, grad, ctx.p), None


@rowwise
def _norm(w: Tensor, p: float) -> Tensor:
    largest = w.abs().amax(1, keepdim=True)
    if p == math.inf:
        return largest
    ratio = (w / largest.clamp(min=torch.finfo(w.dtype).tiny)).abs_()
    return _power_(ratio, p).sum(1, keepdim=True).pow_(1 / p) * largest


@rowwise
def _norm_backward(w: Tensor, value: Tensor, grad: Tensor, p: float) -> Tensor:
    ratio = w / value.clamp(min=torch.finfo(w.dtype).tiny)
    if p == math.inf:
        share = ratio.trunc_()  # sign(w) where |w| is the largest, else 0
        count = share.abs().sum(1, keepdim=True).clamp(min=1)
        return share.mul_(grad / count)
    if p % 2 == 0:
        return _power_(ratio, p - 1).mul_(grad)
    sign = ratio.sign()
    return _power_(ratio.abs_(), p - 1).mul_(sign).mul_(grad)


def _power_(x: Tensor, p: float) -> Tensor:
    """Compute x^p in place; whole exponents by squaring, several times faster than pow."""
    if p != int(p) or not 1 <= p <= 64:
        return x.pow_(p)
    half, odd = divmod(int(p), 2)
    if half == 0:
        return x
    return _power_(x * x, half).mul_(x) if odd else _power_(x.mul_(x), half)


class _ScaleGradient(Function):
    """The identity, whose gradient is multiplied by a factor (LSQ, Section 2.2)."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None
