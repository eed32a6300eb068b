"""What reports share: tables, confidence intervals."""

from typing import Iterable, Sequence, Tuple

import numpy as np
from scipy.stats import bootstrap


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def rate_interval(errors: Sequence[float], words: Sequence[int]) -> Tuple[float, float]:
    """The 95% interval of 100 * errors / words, by bootstrap (Bisani and Ney, 2004), with a seed of its own.

    Args:
        errors, words: of each of the two or more sentences or recordings, which are drawn anew, 5000 times
    """
    result = bootstrap(
        (np.asarray(errors), np.asarray(words)),
        lambda errors, words, axis=-1: 100 * errors.sum(axis) / words.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
