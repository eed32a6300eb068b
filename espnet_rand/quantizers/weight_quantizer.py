"""Scale, estimator, granularity, precision, grid and rotation together: fake-quantize, encode and decode a weight."""

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple, Type, Union

import torch
from torch import Tensor

from espnet_rand.quantizers.estimator import Estimator, StraightThrough
from espnet_rand.quantizers.granularity import Granularity, PerChannel
from espnet_rand.quantizers.grid import Grid, Steps, grid_name
from espnet_rand.quantizers.precision import Precision
from espnet_rand.quantizers.rotation import Rotation, rotation_name
from espnet_rand.quantizers.scale import Clip, Rand, Scale, clip_search

#: What step sizes are rounded to. bfloat16 has the range of float32, and half precision holds its numbers.
SCALE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class WeightQuantizer:
    """Quantizes weights of shape (channels, ...). Holds no tensors and no state.

    The caller keeps a learned scale's parameter, of shape (rows,), a number for each group or for both of its sides:
    `initial(weight)` gives its starting value, and the other methods take it. Without it they use the starting value.

    The caller also counts the training forwards, and heeds `start_step`: before it, training computes with the float
    weight.

    It computes in float32 (float64 for float64 weights), whatever autocast says, and returns
    the weight's own dtype.

    Examples:
        >>> quantizer = WeightQuantizer()              # 4 bits, RAND mode 3, straight-through, per channel
        >>> noisy = quantizer(torch.randn(8, 16))
        >>> codes, (scales, zeros) = quantizer.encode(torch.randn(8, 16))
    """

    scale: Scale = Rand()
    estimator: Estimator = StraightThrough()
    granularity: Granularity = PerChannel()
    precision: Precision = Precision()
    start_step: int = 0
    grid: Type[Grid] = Grid
    rotation: Rotation = Rotation()
    scale_dtype: str = "float32"

    def __str__(self) -> str:
        """The parts in words, but for one number of bits, the symmetric grid, no rotation and scales in float32."""
        parts: List[Any] = [self.scale, self.estimator, self.granularity]
        parts += [self.precision] if len(self.precision.all) > 1 else []
        parts += [] if self.grid is Grid else [grid_name(self.grid)]
        parts += [] if self.rotation == Rotation() else [rotation_name(self.rotation)]
        parts += [] if self.scale_dtype == "float32" else [self.scale_dtype]
        return " ".join(map(str, parts))

    def initial(self, weight: Tensor, bits: Optional[int] = None) -> Optional[Tensor]:
        """The starting value of the learned scale's parameter, (rows,), for `bits`; None: the scale is not learned.

        Without `bits`, several precisions share the parameter: it starts at the mean of what each would start with.
        """
        if not self.scale.learned:
            return None
        with torch.no_grad(), _no_autocast(weight):
            w = self._grouped(weight)
            every = [bits] if bits else self.precision.all
            initial = [self.scale.initial(*self._rows(w, weight, self.grid(b))) for b in every]
            return torch.stack(initial).mean(0) if len(initial) > 1 else initial[0]

    def __call__(
        self,
        weight: Tensor,
        parameter: Optional[Tensor] = None,
        training: bool = True,
        generator: Optional[torch.Generator] = None,
        bits: Optional[int] = None,
    ) -> Tensor:
        """Fake-quantize a weight, in its shape and dtype, for a forward to compute with.

        In training the estimator does it. In evaluation the weight is truly rounded, equal to
        `decode(*encode(weight))` bit for bit, with a straight-through gradient.

        Args:
            weight: (channels, ...), floating point
            parameter: the learned scale's, (rows,)
            training: whether the estimator is used
            generator: source of the noise; None: torch's own
            bits: those of this forward; None: the highest number of the precision
        """
        with _no_autocast(weight):
            grid = self.grid(bits or self.precision.highest)
            w, (s, z) = self._grouped_and_steps(weight, parameter, grid)
            estimator = self.estimator if training else StraightThrough()
            zero = {} if z is None else {"z": z}  # estimators of one's own may not know it
            value = self.granularity.join(estimator(w, s, grid, generator, **zero), weight.shape)
            return self.rotation.back(value).to(weight.dtype)

    @torch.no_grad()
    def encode(
        self, weight: Tensor, parameter: Optional[Tensor] = None, bits: Optional[int] = None
    ) -> Tuple[Tensor, Steps]:
        """Round a weight to integer codes, int8 in its shape, of the rotated weight; with its steps, (groups,)."""
        with _no_autocast(weight):
            grid = self.grid(bits or self.precision.highest)
            w, steps = self._grouped_and_steps(weight, parameter, grid)
            codes = self.granularity.join(grid.round(w, *steps), weight.shape).to(torch.int8)
            return codes, steps.each(lambda one: one.squeeze(1))

    @torch.no_grad()
    def decode(self, codes: Tensor, steps: Steps, dtype: Optional[torch.dtype] = None) -> Tensor:
        """Decode codes, int8 (channels, ...), with steps, (groups,), to a weight in `dtype` (default: the scales')."""
        grid = self.grid(self.precision.highest)  # levels are the same at all numbers of bits
        with _no_autocast(codes):
            value = self.rotation.back(self.granularity.decoded(codes, grid, steps))
            return value.to(dtype or steps.scales.dtype)

    @torch.no_grad()
    def spread(self, numbers: Tensor, weight: Tensor) -> Tensor:
        """Give each number of a rotated weight that of its group: numbers (groups,) in the weight's shape."""
        ones = torch.ones_like(weight, dtype=torch.int8)
        return self.granularity.decoded(ones, Grid(self.precision.highest), Steps(numbers)).to(weight.dtype)

    @torch.no_grad()
    def searched(self, weight: Tensor, importance: Tensor, bits: int) -> Steps:
        """Search steps, (groups,), with the least sum of importance x squared error.

        Args:
            weight: (channels, ...)
            importance: of the rotated weight's numbers, in their shape
        """
        with _no_autocast(weight):
            grid, split = self.grid(bits), self.granularity.split
            found = clip_search(self._grouped(weight), grid, Clip(), split(importance.float()))
            return self._placed(found, grid).each(lambda one: one.squeeze(1))

    @torch.no_grad()
    def parameter(self, weight: Tensor, steps: Steps, bits: int) -> Tensor:
        """The learned scale's parameter, (rows,), with which a weight is rounded by `steps`, (groups,)."""
        with _no_autocast(weight):
            w, grid = self._grouped(weight), self.grid(bits)
            s, z = steps.each(lambda one: one.to(w.dtype).unsqueeze(1))
            return self.scale.parameter(grid.rows(w), grid, grid.unplace(s, z, w).view(-1, 1))

    def _grouped(self, weight: Tensor) -> Tensor:
        """The rotated weight as (groups, members), in float32 at least."""
        wide = weight if weight.dtype == torch.float64 else weight.float()
        return self.granularity.split(self.rotation(wide))

    def _rows(self, w: Tensor, weight: Tensor, grid: Grid) -> Tuple[Tensor, Grid, Union[int, Tensor]]:
        """The arguments that a scale takes, of a weight that `_grouped` made w."""
        members = self.granularity.members(weight)
        return grid.rows(w), grid, members if isinstance(members, int) else members.repeat_interleave(grid.sides, 0)

    def _grouped_and_steps(self, weight: Tensor, parameter: Optional[Tensor], grid: Grid) -> Tuple[Tensor, Steps]:
        if parameter is None:
            parameter = self.initial(weight, grid.bits)
        w = self._grouped(weight)
        if parameter is not None:
            parameter = parameter.to(w.dtype)
        s = self.scale.step(*self._rows(w, weight, grid), parameter)
        return w, self._placed(s.view(-1, grid.sides), grid)

    def _placed(self, steps: Tensor, grid: Grid) -> Steps:
        """The steps of groups, (groups, 1), from those of their rows, (groups, sides)."""
        # a row of zeros: a tiny step, and no gradient through it
        s, z = grid.place(steps.clamp(min=torch.finfo(steps.dtype).tiny))
        if self.scale_dtype != "float32":
            s = s + (s.to(SCALE_DTYPES[self.scale_dtype]).to(s.dtype) - s).detach()
        return Steps(s, z)


def _no_autocast(tensor: Tensor):
    return torch.autocast(tensor.device.type, enabled=False)
