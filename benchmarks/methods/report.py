"""Tables and plots of the results so far: RESULTS.md and results/*.png beside this file.

python benchmarks/methods/report.py
"""

import functools
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import matplotlib
import numpy as np

from espnet_rand.atomic import write_text
from espnet_rand.reporting import Estimate, joined, markdown

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from grid import Lines, begun_at, best_rate, finished, float_cell  # noqa: E402
from measures import measure_of  # noqa: E402
from methods import MAIN, METHODS  # noqa: E402
from training import EDGES  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

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

    def p_value(self, other: "Entry") -> Optional[float]:
        """The p of the difference to another method, paired by sentence and seed; None: no seed has both."""
        both = set(self.seeds) & set(other.seeds)
        if not both:
            return None
        mine, others = ([seed in both for seed in e.seeds] for e in (self, other))
        drawn = self.drawn[mine].mean(0) - other.drawn[others].mean(0)
        values, baseline = np.array(self.values)[mine], np.array(other.values)[others]
        return joined(values, drawn, self.sentences, baseline).p


def holm(p_values: Sequence[Optional[float]]) -> List[Optional[float]]:
    """Correct p values for their number (Holm, 1979)."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: List[Optional[float]] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[i] = largest
    return corrected


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


def _p(p: Optional[float]) -> str:
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def table(cell: Cell, found: List[Entry]) -> str:
    """A section in Markdown. Its tests are against the main RAND method with the most seeds, then the best on dev."""
    rands = [e for e in found if e.method.startswith("rand") and e.method in MAIN]
    rand = min(rands, key=lambda e: (-len(e.lines), e.measure.worse * e.dev), default=None)
    tests = [entry.p_value(rand) if rand and entry is not rand else None for entry in found]
    measure = found[0].measure.name
    header = [
        "method",
        "",
        "learning rate",
        "seeds",
        "dev loss",
        f"dev {measure}",
        measure,
        "lowest-highest",
        "95%",
        "p against †",
        "Holm",
    ]
    rows = []
    for entry, p, corrected in zip(found, tests, holm(tests)):
        low, high = entry.estimate.interval
        rows.append(
            [f"`{entry.method}`", METHODS[entry.method].text, entry.rate, str(len(entry.lines)), f"{entry.loss:.2f}"]
            + [
                f"{entry.dev:.2f}",
                f"{entry.value:.2f}",
                f"{min(entry.values):.2f}-{max(entry.values):.2f}",
                f"{max(low, 0):.2f}-{high:.2f}",
            ]
            + (["†", ""] if entry is rand else [_p(p), _p(corrected)])
        )
    return f"\n## {name(cell)}\n\n{markdown(header, rows)}"


def overview(by_cell: Dict[Cell, List[Entry]]) -> str:
    """A table in Markdown of what the main methods have in all cells."""
    rows = []
    for method in MAIN:
        entries_of = [next((e for e in found if e.method == method), None) for found in by_cell.values()]
        if any(entries_of):
            rows.append([f"`{method}`", *(f"{e.value:.2f} ({len(e.lines)})" if e else "" for e in entries_of)])
    (measure,) = {entry.measure.name for found in by_cell.values() for entry in found}
    return f"\n{measure} on test (seeds):\n\n" + markdown(["", *map(name, by_cell)], rows)


def pairs(found: List[Entry]) -> str:
    """A table in Markdown of the tests of every trained method against every other, not corrected (of one: "")."""
    trained = [entry for entry in found if METHODS[entry.method].trains and entry.method in MAIN]
    if len(trained) < 2:
        return ""
    rows = [
        [f"`{a.method}`", *("" if j <= i else _p(a.p_value(b)) for j, b in enumerate(trained) if j)]
        for i, a in enumerate(trained[:-1])
    ]
    return "\np of each pair, not corrected:\n\n" + markdown(["", *(f"`{e.method}`" for e in trained[1:])], rows)


def plot_errors(cell: Cell, found: List[Entry], path: Path) -> None:
    """Plot each method's measure with its interval."""
    figure, axes = pyplot.subplots(figsize=(7, 0.3 * len(found) + 1))
    for y, entry in enumerate(found):
        low, high = entry.estimate.interval
        axes.plot([max(low, 0.01), high], [y, y], color="tab:red" if entry.method.startswith("rand") else "tab:gray")
        axes.plot(entry.values, [y] * len(entry.values), "k.", markersize=4)
    axes.set(yticks=range(len(found)), yticklabels=[e.method + "*" * ("tried" in e.rate) for e in found], xscale="log")
    axes.set(
        xlabel=f"test {found[0].measure.name} (dots: seeds; bar: 95% over sentences and seeds; *: rates not bracketed)",
        title=name(cell),
    )
    axes.invert_yaxis()
    figure.savefig(path, bbox_inches="tight", dpi=110)
    pyplot.close(figure)


def plot_weights(cell: Cell, found: List[Entry], path: Path) -> None:
    """Plot where the regularization goes: the first seed's weights, by layer and as a histogram."""
    trained = [entry for entry in found if METHODS[entry.method].trains]
    figure, (kurtosis, ratio, histogram) = pyplot.subplots(1, 3, figsize=(15, 0.25 * len(trained) + 2))
    labels = [entry.method for entry in trained]
    layers = [np.array(list(entry.lines[0]["weights"]["layers"].values())) for entry in trained]
    for axes, column, title in ((kurtosis, 0, "kurtosis of a layer"), (ratio, 1, "largest / standard deviation")):
        axes.boxplot([values[:, column] for values in layers], orientation="horizontal", tick_labels=labels)
        axes.set(xscale="log", title=title)
        axes.invert_yaxis()
    for entry in trained:
        counts = np.array(entry.lines[0]["weights"]["histogram"])
        style = "-" if entry.method.startswith("rand") else "--" if entry.method != "float" else "k-"
        histogram.plot((EDGES[1:] + EDGES[:-1]) / 2, counts / counts.sum(), style, label=entry.method, linewidth=1)
    histogram.set(yscale="log", xlabel="standard deviations of the row", title="weights")
    histogram.legend(fontsize=6)
    figure.suptitle(name(cell))
    figure.savefig(path, bbox_inches="tight", dpi=110)
    pyplot.close(figure)


def main() -> None:
    text = "# Results\n\nMade by `python benchmarks/methods/report.py`; README.md says what they show.\n"
    details = ""
    for results in sorted((HERE / "results").glob("*.jsonl")):
        by_cell = cells(results)
        counted = {(line["start"], run): line for lines in by_cell.values() for run, line in lines.items()}.values()
        if not counted:
            continue
        hours = sum(line["seconds"] for line in counted) / 3600
        machines = sorted({f"torch {line['torch']}, {line['machine']}" for line in counted})
        text += f"\n{results.stem}: {len(counted)} runs, {hours:.1f} hours of them; {'; '.join(machines)}\n"
        found_by_cell = {cell: entries(lines, cell) for cell, lines in by_cell.items()}
        text += overview(found_by_cell)
        for cell, found in found_by_cell.items():
            details += table(cell, found)
            details += pairs(found)
            main_ones = [entry for entry in found if entry.method in MAIN]
            if len(main_ones) < 3:
                continue  # a table says it all
            for kind, plot in (("errors", plot_errors), ("weights", plot_weights)):
                path = results.parent / f"{name(cell)}.{kind}.png"
                plot(cell, main_ones, path)
                details += f"\n![{kind}](results/{path.name})\n"
    write_text(HERE / "RESULTS.md", text + details)
    print(text + details)


if __name__ == "__main__":
    main()
