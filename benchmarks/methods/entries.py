"""What the lines of results say of a method in a cell: its learning rate, its measure with an interval, differences."""

import functools
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet_rand.reporting import Estimate, joined

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from grid import Lines, begun_at, best_rate, finished, float_cell  # noqa: E402
from measures import measure_of  # noqa: E402
from methods import METHODS  # noqa: E402

Line = Dict[str, Any]
Cell = Tuple[str, int, str, bool]


class Entry:
    """Holds the runs of a method in a cell, at its learning rate, one for each seed.

    Attributes:
        tried: the learning rates that it was chosen from
    """

    def __init__(self, method: str, lines: List[Line], tried: Sequence[float] = ()):
        self.method = method
        self.lines = lines
        self.tried = sorted(tried)
        self.measure = measure_of(lines[0]["test"])
        self.dev = statistics.mean(self.measure.value(line["dev"]) for line in lines)
        self.loss = statistics.mean(line["dev"]["loss"] for line in lines)
        self.values = [self.measure.value(line["test"]) for line in lines]

    @property
    def value(self) -> float:
        """The mean of the seeds on test."""
        return statistics.mean(self.values)

    @functools.cached_property
    def drawn(self) -> np.ndarray:
        """The measure on the draws of the bootstrap, (seeds, draws)."""
        return np.stack([self.measure.drawn(line["test"]) for line in self.lines])

    @property
    def sentences(self) -> int:
        """How many sentences test has."""
        return self.measure.sentences(self.lines[0]["test"])

    @property
    def seeds(self) -> List[int]:
        return [line["seed"] for line in self.lines]

    @property
    def rate(self) -> str:
        """The learning rate, with a remark on how it was chosen."""
        rate = self.lines[0]["rate"]
        if len(self.tried) < 2:
            return f"{rate:g} (no other tried)"
        return f"{rate:g}" + {self.tried[0]: " (lowest tried)", self.tried[-1]: " (highest tried)"}.get(rate, "")

    @functools.cached_property
    def estimate(self) -> Estimate:
        """The measure over sentences and seeds."""
        return joined(np.array(self.values), self.drawn.mean(0), self.sentences)

    def difference(self, other: "Entry") -> Optional[Estimate]:
        """How far it is above another method, paired by sentence and seed; None: no seed has both."""
        both = set(self.seeds) & set(other.seeds)
        if not both:
            return None
        mine, others = ([seed in both for seed in e.seeds] for e in (self, other))
        drawn = self.drawn[mine].mean(0) - other.drawn[others].mean(0)
        values, baseline = np.array(self.values)[mine], np.array(other.values)[others]
        return joined(values, drawn, self.sentences, baseline)

    def beyond(self, other: "Entry") -> Optional[Estimate]:
        """By how many percent of another method's measure it is above it, paired in the same way; None: as there."""
        difference = self.difference(other)
        if difference is None:
            return None
        factor = 100 / statistics.mean(value for value, seed in zip(other.values, other.seeds) if seed in self.seeds)
        return difference._replace(value=difference.value * factor, error=difference.error * factor)

    def p_value(self, other: "Entry") -> Optional[float]:
        """The p of the difference to another method; None: no seed has both."""
        difference = self.difference(other)
        return None if difference is None else difference.p


def cells(path: Path) -> Dict[Cell, Lines]:
    """The cells of a file of results, each with the runs from the start that its last line has."""
    found = finished(path)
    latest = {
        (line["task"], line["bits"], line["granularity"], line["scratch"]): line["start"]
        for line in found
        if line["bits"]
    }
    return {cell: begun_at(start, found) for cell, start in sorted(latest.items())}


def entries(lines: Lines, cell: Cell) -> List[Entry]:
    """The methods that have results in a cell; a method with several rates counts with its best on dev.

    That is chosen by the seeds that all its rates have.
    """
    groups: Dict[str, Dict[float, List[Line]]] = {}
    for run, line in lines.items():
        mine = (run.task, run.bits, run.granularity, run.scratch)
        if mine == cell or (run.method == "float" and mine == float_cell(cell)):
            groups.setdefault(run.method, {}).setdefault(run.rate, []).append(line)
    found = []
    for method in METHODS:
        rates = groups.get(method)
        if rates:
            where = float_cell(cell) if method == "float" else cell
            seeds = {rate: {line["seed"] for line in runs} for rate, runs in rates.items()}
            first = min(set.union(*seeds.values()))
            tried = tuple(rate for rate in rates if first in seeds[rate])
            shared = set.intersection(*(seeds[rate] for rate in tried))
            best = best_rate(lines, where, method, tried, sorted(shared))
            if found and found[0].method == "float" and not METHODS[method].trains:
                tried = found[0].tried  # methods that only round have the rate of the float model
            found.append(Entry(method, sorted(rates[best], key=lambda line: line["seed"]), tried))
    return found


def name(cell: Cell) -> str:
    return f"{cell[0]}.w{cell[1]}.{cell[2]}" + ".scratch" * cell[3]
