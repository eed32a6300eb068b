"""What reports share: runs, tables, confidence intervals."""

from typing import Dict, Iterable, List, Sequence, Tuple

import numpy as np
from scipy.stats import bootstrap


def runs_of(systems: Iterable[str]) -> Dict[str, List[str]]:
    """Systems by their names without the number of a run: rand.1 and rand.2 are runs of rand."""
    runs: Dict[str, List[str]] = {}
    for system in systems:
        name, _, number = system.rpartition(".")
        runs.setdefault(name if number.isdigit() else system, []).append(system)
    return runs


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, which a terminal shows as one, too."""
    table = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*table)]
    table.insert(1, ["-" * width for width in widths])
    return "".join("| " + " | ".join(map(str.ljust, row, widths)) + " |\n" for row in table)


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
