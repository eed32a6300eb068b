"""Scale, estimator, granularity, precision and grid together: fake-quantize a weight, encode it, decode it."""

from dataclasses import dataclass, field
from typing import Optional, Tuple, Type

import torch
from torch import Tensor

from espnet_rand.quantizers.estimator import Estimator, Noise, StraightThrough
from espnet_rand.quantizers.granularity import Granularity, PerChannel
from espnet_rand.quantizers.grid import Grid
from espnet_rand.quantizers.precision import Precision
from espnet_rand.quantizers.scale import Clip, Rand, Scale, clip_search


@dataclass(frozen=True)
class WeightQuantizer:
    """Quantizes weights of shape (channels, ...). Holds no tensors and no state.

    The caller keeps a learned scale's parameter, of shape (groups,): `initial(weight)` gives
    its starting value, and the other methods take it. Without it they use the starting value.

    The caller also counts the training forwards, and heeds `start_step`: before it, training computes with the float
    weight.

    It computes in float32 (float64 for float64 weights), whatever autocast says, and returns
    the weight's own dtype.

    Example:
        >>> quantizer = WeightQuantizer()              # 4 bits, RAND mode 2, noise, per channel
        >>> noisy = quantizer(torch.randn(8, 16))
        >>> codes, scales = quantizer.encode(torch.randn(8, 16))
    """

    scale: Scale = Rand()
    estimator: Estimator = Noise()
    granularity: Granularity = PerChannel()
    precision: Precision = Precision()
    start_step: int = 0
    grid: Type[Grid] = field(default=Grid, repr=False)

    def initial(self, weight: Tensor, bits: Optional[int] = None) -> Optional[Tensor]:
        """The starting value of the learned scale's parameter, (groups,), for `bits`; None: the scale is not learned.

        Without `bits`, several precisions share the parameter: it starts at the mean of what each would start with.
        """
        if not self.scale.learned:
            return None
        with torch.no_grad(), _no_autocast(weight):
            w, members = self._grouped(weight), self.granularity.members(weight)
            every = [bits] if bits else self.precision.all
            initial = [self.scale.initial(w, self.grid(b), members) for b in every]
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
            parameter: the learned scale's, (groups,)
            training: whether the estimator is used
            generator: source of the noise; None: torch's own
            bits: those of this forward; None: the highest number of the precision
        """
        with _no_autocast(weight):
            grid = self.grid(bits or self.precision.highest)
            w, s = self._grouped_and_step(weight, parameter, grid)
            estimator = self.estimator if training else StraightThrough()
            value = estimator(w, s, grid, generator)
            return self.granularity.join(value, weight.shape).to(weight.dtype)

    @torch.no_grad()
    def encode(
        self, weight: Tensor, parameter: Optional[Tensor] = None, bits: Optional[int] = None
    ) -> Tuple[Tensor, Tensor]:
        """Round a weight to integer codes, int8 in its shape, and scales (step sizes), (groups,)."""
        with _no_autocast(weight):
            grid = self.grid(bits or self.precision.highest)
            w, s = self._grouped_and_step(weight, parameter, grid)
            return self.granularity.join(grid.round(w, s), weight.shape).to(torch.int8), s.squeeze(1)

    @torch.no_grad()
    def decode(self, codes: Tensor, scales: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
        """Decode codes, int8 (channels, ...), with scales, (groups,), to a weight in `dtype` (default: the scales')."""
        levels = self.grid(self.precision.highest).levels(codes)  # the same at all numbers of bits
        with _no_autocast(codes):
            return self.granularity.scaled(levels, scales).to(dtype or scales.dtype)

    @torch.no_grad()
    def spread(self, scales: Tensor, weight: Tensor) -> Tensor:
        """Give each number of a weight the scale of its group: scales (groups,) in the weight's shape."""
        return self.granularity.scaled(torch.ones_like(weight, dtype=torch.int8), scales).to(weight.dtype)

    @torch.no_grad()
    def searched(self, weight: Tensor, importance: Tensor, bits: int) -> Tensor:
        """Search step sizes, (groups,), with the least sum of importance, in the weight's shape, x squared error."""
        with _no_autocast(weight):
            s = clip_search(self._grouped(weight), self.grid(bits), Clip(), self._grouped(importance))
            return s.squeeze(1).clamp(min=torch.finfo(s.dtype).tiny)

    @torch.no_grad()
    def parameter(self, weight: Tensor, scales: Tensor, bits: int) -> Tensor:
        """The learned scale's parameter, (groups,), with which a weight has the step sizes `scales`, (groups,)."""
        with _no_autocast(weight):
            return self.scale.parameter(self._grouped(weight), self.grid(bits), scales.unsqueeze(1))

    def _grouped(self, weight: Tensor) -> Tensor:
        """The weight as (groups, members), in float32 at least."""
        wide = weight if weight.dtype == torch.float64 else weight.float()
        return self.granularity.split(wide)

    def _grouped_and_step(self, weight: Tensor, parameter: Optional[Tensor], grid: Grid) -> Tuple[Tensor, Tensor]:
        if parameter is None:
            parameter = self.initial(weight, grid.bits)
        w = self._grouped(weight)
        if parameter is not None:
            parameter = parameter.to(w.dtype)
        s = self.scale.step(w, grid, self.granularity.members(weight), parameter)
        # a group of zeros: a tiny step, and no gradient through it
        return w, s.clamp(min=torch.finfo(w.dtype).tiny)


def _no_autocast(tensor: Tensor):
    return torch.autocast(tensor.device.type, enabled=False)
