"""The precision: the number of bits."""

import math
import random
from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

from espnet_rand.options import BITS_RANGE, Check, OptionError, Options, a_precision, integer, one_of, option


@dataclass(frozen=True)
class Precision(Options):
    """One number of bits, in training and in evaluation."""

    bits: int = option(4, a_precision)

    @property
    def all(self) -> Tuple[int, ...]:
        """Every number of bits that training uses."""
        return (self.bits,)

    @property
    def highest(self) -> int:
        """The number of bits that evaluation uses by default."""
        return max(self.all)


def _list_of(holds: Callable[[Any], bool], what: str) -> Check:
    return Check(lambda v: v is None or (isinstance(v, (list, tuple)) and all(map(holds, v))), f"a list of {what}")


def _is_weight(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


@dataclass(frozen=True)
class DrawnPrecision(Precision):
    """Several numbers of bits, one of which is drawn for each training forward: one model for all of them.

    Attributes:
        bits: the numbers
        weights: how often each is drawn; None: all equally often
        from_step: the training forward from which on each is drawn, so that low precisions can come in later; None: 0
        per: whether a forward has one draw for the whole model, for each layer or for each weight
        ranks: whether the processes of a distributed training draw each for itself, or the same
    """

    bits: Tuple[int, ...] = option((2, 3, 4, 8), _list_of(a_precision.holds, f"integers {BITS_RANGE}"))
    per: str = option("model", one_of("model", "layer", "weight"))
    weights: Optional[Tuple[float, ...]] = option(None, _list_of(_is_weight, "numbers from 0, one for each of bits"))
    from_step: Optional[Tuple[int, ...]] = option(
        None, _list_of(integer(0).holds, "training forwards from 0, one for each of bits")
    )
    ranks: str = option("independent", one_of("independent", "together"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bits", "weights", "from_step"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.bits or len(set(self.bits)) < len(self.bits):
            raise OptionError(f"bits: {[*self.bits]} is not allowed, it must list different numbers of bits")
        for name in ("weights", "from_step"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.bits):
                raise OptionError(
                    f"{name}: {[*given]} is not allowed, it must have a number for each of bits {[*self.bits]}"
                )
        if not any(self._odds(0)):
            raise OptionError("weights, from_step: at first nothing could be drawn: give one of bits a weight, from 0")

    @property
    def all(self) -> Tuple[int, ...]:
        return self.bits

    def draw(self, step: int, source: random.Random) -> int:
        """Draw the bits of training forward number `step`."""
        return source.choices(self.bits, self._odds(step))[0]

    def _odds(self, step: int) -> Tuple[float, ...]:
        weights = self.weights or (1,) * len(self.bits)
        return tuple(w * (step >= first) for w, first in zip(weights, self.from_step or (0,) * len(self.bits)))
