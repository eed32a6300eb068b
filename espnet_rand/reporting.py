"""Parts of reports: progress, runs, tables, confidence intervals."""

import functools
import math
import sys
import time
from typing import (
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    cast,
)

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy.stats import t as student

_DRAWS = 5000  # number of the bootstrap's draws
_EVERY = 60.0  # seconds between lines about progress

T = TypeVar("T")


def text_cleaner(name: str) -> Callable[[str], str]:
    """What cleans the texts that are compared: ESPnet's cleaner of this name, e.g. whisper_en. `none`: nothing does."""
    if name == "none":
        return str
    from espnet2.text.cleaner import TextCleaner

    return TextCleaner(name)


def following(items: Iterable[T], title: str, total: Optional[int] = None) -> Iterator[T]:
    """Yield the items, and say on stderr how many of them are done and how long the others still take.

    A terminal gets a bar, which goes at the end. Else there is a line when they begin, and one a minute.

    Args:
        total: how many there are; None: the items have a length
    """
    total = len(cast(Collection[T], items)) if total is None else total
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, title, total=total, console=console, transient=True)
        return
    if total:
        print(f"{title}: {total}", file=sys.stderr, flush=True)
    begun = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= _EVERY and done < total:
            minutes = math.ceil((now - begun) / done * (total - done) / 60)
            print(f"{title}: {done} of {total}, about {minutes} min left", file=sys.stderr, flush=True)
            said = now


def runs_of(systems: Iterable[str]) -> Dict[str, List[str]]:
    """Group systems by their names without the number of a run: rand.1 and rand.2 are runs of rand."""
    runs: Dict[str, List[str]] = {}
    for system in systems:
        name, _, number = system.rpartition(".")
        runs.setdefault(name if number.isdigit() else system, []).append(system)
    return runs


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, which reads as one in a terminal, too."""
    table = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*table)]
    table.insert(1, ["-" * width for width in widths])
    return "".join("| " + " | ".join(map(str.ljust, row, widths)) + " |\n" for row in table)


@functools.lru_cache(maxsize=1)
def draws(count: int) -> np.ndarray:
    """The number of times that a sentence is in a draw of a bootstrap (Bisani and Ney, 2004), (draws, count)."""
    return np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), _DRAWS).astype(np.float64)


def bleu_on_draws(counts: np.ndarray) -> np.ndarray:
    """Compute BLEU, from 0 to 100, on each draw of the sentences (see `draws`), (draws,).

    Args:
        counts: sacrebleu's statistics of each sentence, (sentences, 10): its length, that of its reference, n-grams of
            1 to 4 words that are there, all its n-grams
    """
    from sacrebleu.metrics import BLEU

    sums = (draws(len(counts)) @ counts).astype(int).tolist()
    return np.array([BLEU.compute_bleu(row[2:6], row[6:], row[0], row[1], smooth_method="exp").score for row in sums])


class Estimate(NamedTuple):
    """An error rate in percent or another measure, or a difference of two, from some sentences and runs (seeds).

    Attributes:
        value: the mean of the runs
        error: its standard error over other sentences and runs: the variances over sentences (by bootstrap) and over
            runs are added. A single run has the variance over sentences alone
        freedom: degrees of freedom, after Satterthwaite (1946): a few runs or recordings say little of how far they lie
            apart
    """

    value: float
    error: float
    freedom: float

    @property
    def interval(self) -> Tuple[float, float]:
        """The 95% interval, by Student's t distribution."""
        half = float(student.ppf(0.975, self.freedom)) * self.error
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """The two-sided p of a value of zero."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * student.sf(abs(self.value) / self.error, self.freedom))


def estimate(errors: np.ndarray, words: np.ndarray) -> Estimate:
    """Estimate 100 * errors / words. Differences of two systems' errors give a paired one, by sentence and run.

    Args:
        errors: number of errors, (runs, sentences); two sentences or more
        words: number of words, (sentences,)
    """
    drawn = draws(len(words))
    return joined(
        100 * errors.sum(1) / words.sum(), 100 * (drawn @ errors.mean(0)) / (drawn @ words), sentences=len(words)
    )


def joined(values: np.ndarray, drawn: np.ndarray, sentences: int, baseline: Optional[np.ndarray] = None) -> Estimate:
    """Estimate a measure that need not be a mean over sentences, such as BLEU, or how it differs from a baseline's.

    Args:
        values: the measure of each run on all sentences, (runs,)
        drawn: the mean of the runs on each draw of the sentences, less the baseline's, (draws,); see `draws`
        sentences: how many there are; two or more
        baseline: the measure of each of its runs. As many as `values` has are taken in pairs (those of one seed)
    """
    baseline = np.zeros(1) if baseline is None else baseline
    value = float(values.mean() - baseline.mean())
    sides = [values - baseline] if len(values) == len(baseline) else [values, baseline]
    variances = [(np.var(drawn), sentences - 1)]  # each with its degrees of freedom
    variances += [(side.var(ddof=1) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    both = sum(variance for variance, _ in variances)
    parts = sum(variance**2 / freedom for variance, freedom in variances)
    return Estimate(value, math.sqrt(both), float(both**2 / parts) if parts else math.inf)
