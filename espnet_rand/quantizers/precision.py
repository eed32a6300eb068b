"""Axis 3: the number of bits.

Integer codes of b bits lie in [-Q-1, Q], Q = 2^(b-1) - 1 (shared/method.md, Notation).
"""

from dataclasses import dataclass

from espnet_rand.quantizers.options import Options, integer, option


@dataclass(frozen=True)
class Precision(Options):
    """The bits that a forward uses.

    Training and evaluation ask separately, so that a set of precisions (one drawn for
    each training forward) fits in without a change elsewhere.
    """

    bits: int = option(4, integer(2, 8))

    def training(self) -> int:
        """Bits of this training forward."""
        return self.bits

    def evaluation(self) -> int:
        """Bits of the evaluation forward and of `encode`."""
        return self.bits


def largest_code(bits: int) -> int:
    """Q = 2^(bits-1) - 1, the largest integer code."""
    return 2 ** (bits - 1) - 1
