"""What reports share: runs, tables, confidence intervals."""

import zlib
from typing import Dict, Iterable, List, Sequence, Tuple

import numpy as np

#: Of the bootstrap.
DRAWS = 5000


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


def rate_draws(errors: np.ndarray, words: np.ndarray, drawn_for: str = "") -> np.ndarray:
    """100 * errors / words with sentences and runs drawn anew, by bootstrap (Bisani and Ney, 2004), (DRAWS,).

    The draws of two systems, subtracted, are paired: the same sentences are drawn in each call, and the same runs.

    Args:
        errors: of each run (seed) and sentence or recording, (runs, sentences)
        words: of each sentence, (sentences,)
        drawn_for: a system whose runs are drawn by themselves: they share nothing with the same runs of others
    """
    runs, count = errors.shape
    sentences = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), DRAWS)
    own = np.random.default_rng(zlib.crc32(drawn_for.encode()))
    means = own.multinomial(runs, np.full(runs, 1 / runs), DRAWS) @ errors / runs
    return 100 * (means * sentences).sum(1) / (sentences @ words)


def interval(draws: np.ndarray) -> Tuple[float, float]:
    """95% of what was drawn."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
