"""Counts the word errors of long recordings, and the two ways in which long-form recognition fails."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import jiwer
import numpy as np

from espnet_rand.errors import UserError
from espnet_rand.reporting import Estimate, estimate, markdown

#: A dropped stretch is so many reference words in a row, or more, that are all deleted.
DROPPED = 5
#: A repeated phrase is so many wrong words in a row, or more (inserted or substituted), which say once more, word for
#: word, what the hypothesis says up to PERIOD words before or after them. A stretch of wrong words has one at most.
REPEATED, PERIOD = 4, 20
#: With fewer recordings the bootstrap's interval would be little else than their range.
INTERVAL_FROM = 6


class ScoringError(UserError):
    """Reference and hypothesis do not belong together, in one line."""


@dataclass(frozen=True)
class Counts:
    """Words of the reference, errors, and failures (see DROPPED and REPEATED) of one or more recordings."""

    words: int = 0
    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    dropped: int = 0
    repeated: int = 0

    @property
    def errors(self) -> int:
        """The number of errors of all kinds."""
        return self.insertions + self.deletions + self.substitutions

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


def count(reference: str, hypothesis: str) -> Counts:
    """Compare the words of two texts, along jiwer's alignment with the fewest errors."""
    said, heard = reference.split(), hypothesis.split()
    if not said or not heard:
        dropped = int(len(said) >= DROPPED)
        return Counts(len(said), insertions=len(heard), deletions=len(said), dropped=dropped)
    aligned = jiwer.process_words(" ".join(said), " ".join(heard))
    (chunks,) = aligned.alignments
    dropped = sum(c.type == "delete" and c.ref_end_idx - c.ref_start_idx >= DROPPED for c in chunks)
    wrong: List[Tuple[int, int]] = []  # stretches of the hypothesis
    for chunk in chunks:
        if chunk.type in ("insert", "substitute"):
            start, end = chunk.hyp_start_idx, chunk.hyp_end_idx
            if wrong and wrong[-1][1] == start:
                start = wrong.pop()[0]
            wrong.append((start, end))
    repeated = sum(_repeats(heard, start, end) for start, end in wrong)
    return Counts(len(said), aligned.insertions, aligned.deletions, aligned.substitutions, dropped, repeated)


def _repeats(heard: Sequence[str], start: int, end: int) -> bool:
    """Whether a stretch of wrong words has a repeated phrase."""
    for shift in (sign * period for period in range(1, PERIOD + 1) for sign in (-1, 1)):
        run = 0
        for i in range(start, end):
            run = run + 1 if 0 <= i + shift < len(heard) and heard[i] == heard[i + shift] else 0
            if run == REPEATED:
                return True
    return False


@dataclass(frozen=True)
class Score:
    """A system on a test set, over its runs (seeds), if there are several.

    Attributes:
        system, test_set: names
        seconds: mean length of the recordings
        runs: the counts of each run, over all recordings, by the run's name
        words: how many words each recording's reference has, (recordings,)
        errors: how many errors each run has in each recording, (runs, recordings)
    """

    system: str
    test_set: str
    seconds: float
    runs: Mapping[str, Counts]
    words: np.ndarray
    errors: np.ndarray

    @property
    def recordings(self) -> int:
        """The number of recordings."""
        return len(self.words)

    @property
    def rates(self) -> List[float]:
        """The word error rate of each run, in percent."""
        return [100 * run.errors / run.words for run in self.runs.values()]

    @functools.cached_property
    def estimate(self) -> Optional[Estimate]:
        """The mean error rate of the runs, with its interval; None: there are fewer recordings than INTERVAL_FROM."""
        return estimate(self.errors, self.words) if self.recordings >= INTERVAL_FROM else None

    def above(self, other: "Score") -> Optional[Estimate]:
        """Estimate by how much the error rate is above that of another system on the same recordings.

        None: there are fewer recordings than INTERVAL_FROM, or the two systems have other runs.
        """
        if self.recordings < INTERVAL_FROM or self.runs.keys() != other.runs.keys():
            return None
        return estimate(self.errors - other.errors, self.words)

    def mean(self, name: str) -> float:
        """The mean of one of the counts over the runs."""
        return float(np.mean([getattr(run, name) for run in self.runs.values()]))


def score(
    system: str,
    test_set: str,
    seconds: Mapping[str, float],
    references: Mapping[str, str],
    hypotheses: Mapping[str, Mapping[str, str]],
) -> Score:
    """Score one or more runs of a system.

    Args:
        seconds: length of each recording
        references: text of each recording
        hypotheses: text of each recording that a run gave, by the run's name

    Raises:
        ScoringError: a run lacks a recording or has another, or there are no words
    """
    for hypothesis in hypotheses.values():
        if missing := sorted(references.keys() ^ hypothesis.keys()):
            raise ScoringError(
                f"{system}, {test_set}: {len(hypothesis)} of {len(references)} recordings are decoded; the first that "
                f"differs is {missing[0]}. Fix: see report.jsonl beside it, and decode again"
            )
    counts = {
        run: [count(text, hypothesis[key]) for key, text in references.items()]
        for run, hypothesis in hypotheses.items()
    }
    words = np.array([len(text.split()) for text in references.values()])
    if not words.sum():
        raise ScoringError(f"{test_set}: the reference has no words")
    mean_seconds = float(np.mean([seconds[key] for key in references]))
    errors = np.array([[c.errors for c in run] for run in counts.values()])
    runs = {name: sum(run, Counts()) for name, run in counts.items()}
    return Score(system, test_set, mean_seconds, runs, words, errors)


def tables(scores: Sequence[Score]) -> str:
    """Write two tables in Markdown: error rates by duration, and what the errors are."""
    sets = _by_length(scores)
    cells = {(s.system, s.test_set): s for s in scores}
    header = ["WER %", *(f"{name} ({length:.0f} s x {number})" for name, (length, number) in sets.items())]
    rows = []
    for system in dict.fromkeys(s.system for s in scores):
        row = [cells.get((system, name)) for name in sets]
        rows.append([system, *("-" if cell is None else _rate(cell) for cell in row)])
    kinds = ["insertions", "deletions", "substitutions", "dropped", "repeated"]
    header2 = ["system", "set", "words", "ins %", "del %", "sub %", "dropped stretches", "repeated phrases"]
    rows2 = []
    for s in scores:
        words = s.words.sum()
        rates = [f"{100 * s.mean(kind) / words:.2f}" for kind in kinds[:3]]
        rows2.append([s.system, s.test_set, str(words), *rates, *(f"{s.mean(kind):g}" for kind in kinds[3:])])
    return (
        f"{markdown(header, rows)}\nIn brackets: 95% over recordings (and runs, if there are several), if there are "
        f"{INTERVAL_FROM} recordings or more; lowest-highest run, if there are several.\n\n{markdown(header2, rows2)}\n"
        f"Dropped stretch: {DROPPED} or more reference words in a row are all deleted. Repeated phrase: {REPEATED} or "
        f"more wrong words in a row say once more what is said up to {PERIOD} words before or after them. Of several "
        "runs the mean.\n"
    )


def differences(scores: Sequence[Score], baselines: Mapping[str, str]) -> str:
    """Write a table in Markdown: by how much a system's error rate is above another's on the same recordings.

    Args:
        baselines: the system that each is compared with, by its name
    """
    sets = _by_length(scores)
    cells = {(s.system, s.test_set): s for s in scores}
    rows = []
    for system, baseline in baselines.items():
        pairs = [(cells.get((system, name)), cells.get((baseline, name))) for name in sets]
        rows.append([system, *("-" if None in pair else _difference(*pair) for pair in pairs)])
    return (
        f"{markdown(['WER, points above', *sets], rows)}\nCompared: {', '.join(dict.fromkeys(baselines.values()))}. In "
        f"brackets: 95% over recordings and runs, paired, if there are {INTERVAL_FROM} recordings or more and the runs "
        "have the same numbers. One in twenty such intervals leaves out the truth.\n"
    )


def _difference(mine: Score, other: Score) -> str:
    """Write a difference of error rates, with its interval if there is one."""
    text = f"{np.mean(mine.rates) - np.mean(other.rates):+.2f}"
    found = mine.above(other)
    return text if found is None else text + " [{:+.2f}, {:+.2f}]".format(*found.interval)


def _by_length(scores: Sequence[Score]) -> Dict[str, Tuple[float, int]]:
    """The test sets in order of length: name -> mean seconds, recordings."""
    found = {s.test_set: (s.seconds, s.recordings) for s in scores}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _rate(s: Score) -> str:
    """Write an error rate, with its interval and the range of its runs if there are any."""
    text = f"{np.mean(s.rates):.2f}"
    if s.estimate is not None:
        low, high = s.estimate.interval
        text += f" [{max(low, 0):.2f}-{high:.2f}]"
    return text if len(s.rates) == 1 else f"{text} ({min(s.rates):.2f}-{max(s.rates):.2f})"


def plot(scores: Sequence[Score], path: Path) -> None:
    """Plot error rates against duration as a PNG file: a line for each system and part (a set's name before "/")."""
    import matplotlib

    matplotlib.use("Agg")
    from cycler import cycler
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6))
    # forty looks; of two modes one has whole lines, the other dashes
    axes.set_prop_cycle(cycler(color=pyplot.get_cmap("tab20")(range(20))) * cycler(linestyle=["-", "--"]))
    lines: Dict[Tuple[str, str], List[Score]] = {}
    for s in sorted(scores, key=lambda s: s.seconds):
        lines.setdefault((s.system, s.test_set.partition("/")[0]), []).append(s)
    several = len({part for _, part in lines}) > 1
    for (system, part), mine in lines.items():
        label = f"{system}, {part}" if several else system
        means = np.array([np.mean(s.rates) for s in mine])
        ends = np.array([(m, m) if s.estimate is None else s.estimate.interval for s, m in zip(mine, means)])
        bars = np.clip([means - ends[:, 0], ends[:, 1] - means], 0, None)
        axes.errorbar([s.seconds for s in mine], means, bars, marker="o", markersize=3, capsize=2, label=label)
    axes.set(xscale="log", xlabel="length of a recording, s", ylabel="WER %")
    lengths = sorted({round(s.seconds) for s in scores})
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=6, ncols=2)
    figure.savefig(path, format="png", bbox_inches="tight", dpi=110)
    pyplot.close(figure)
