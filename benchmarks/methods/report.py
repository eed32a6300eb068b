"""Tables and plots of the results so far: RESULTS.md and results/*.png beside this file.

python benchmarks/methods/report.py
"""

import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import matplotlib
import numpy as np
from scipy.stats import permutation_test

from espnet_rand.reporting import markdown, rate_interval

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from grid import best_rate, float_cell, read  # noqa: E402
from methods import MAIN, METHODS  # noqa: E402
from training import EDGES  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

Line = Dict[str, Any]
Cell = Tuple[str, int, str, bool]


class Entry:
    """The runs of a method in a cell, at its learning rate, one for each seed."""

    def __init__(self, method: str, lines: List[Line]):
        self.method = method
        self.lines = lines
        self.words = np.array(lines[0]["test"]["words"])
        self.errors = np.mean([line["test"]["errors"] for line in lines], axis=0)  # of each sentence
        self.dev = np.mean([sum(line["dev"]["errors"]) for line in lines])
        self.rates = [100 * sum(line["test"]["errors"]) / self.words.sum() for line in lines]

    @property
    def wer(self) -> float:
        return statistics.mean(self.rates)

    def interval(self) -> Tuple[float, float]:
        """95%, over the sentences of the test set."""
        return rate_interval(self.errors, self.words)

    def p_value(self, other: "Entry") -> float:
        """That this differs from another method by chance: paired permutation test over sentences."""
        difference = self.errors - other.errors
        if not difference.any():
            return 1.0
        return permutation_test(
            (difference,),
            lambda x, axis=-1: x.mean(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=5000,
            rng=np.random.default_rng(1),
        ).pvalue


def entries(lines: Dict, cell: Cell) -> List[Entry]:
    """The methods that have results in a cell; a method with several rates counts with its best on dev."""
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
            seed = min(line["seed"] for runs in rates.values() for line in runs)
            tried = tuple(rate for rate, runs in rates.items() if any(line["seed"] == seed for line in runs))
            best = best_rate(lines, where, method, tried, seed)
            found.append(Entry(method, sorted(rates[best], key=lambda line: line["seed"])))
    return found


def name(cell: Cell) -> str:
    return f"{cell[0]}.w{cell[1]}.{cell[2]}" + ".scratch" * cell[3]


def table(cell: Cell, found: List[Entry]) -> str:
    """Markdown. The paired tests are against the RAND method with the fewest errors on the development set."""
    rand = min((e for e in found if e.method.startswith("rand")), key=lambda e: e.dev, default=None)
    header = ["method", "", "learning rate", "seeds", "WER %", "lowest-highest", "95% interval", "p against †"]
    rows = []
    for entry in found:
        low, high = entry.interval()
        p = "†" if entry is rand else f"{entry.p_value(rand):.3f}" if rand else "-"
        rows.append(
            [f"`{entry.method}`", METHODS[entry.method].text, f"{entry.lines[0]['rate']:g}", str(len(entry.lines))]
            + [f"{entry.wer:.2f}", f"{min(entry.rates):.2f}-{max(entry.rates):.2f}", f"{low:.2f}-{high:.2f}", p]
        )
    return f"\n## {name(cell)}\n\n{markdown(header, rows)}"


def plot_errors(cell: Cell, found: List[Entry], path: Path) -> None:
    """Error rate of each method with its interval."""
    figure, axes = pyplot.subplots(figsize=(7, 0.3 * len(found) + 1))
    for y, entry in enumerate(found):
        low, high = entry.interval()
        axes.plot([low, high], [y, y], color="tab:red" if entry.method.startswith("rand") else "tab:gray")
        axes.plot(entry.rates, [y] * len(entry.rates), "k.", markersize=4)
    axes.set(yticks=range(len(found)), yticklabels=[e.method for e in found], xscale="log")
    axes.set(xlabel="test WER % (dots: seeds; bar: 95% over sentences)", title=name(cell))
    axes.invert_yaxis()
    figure.savefig(path, bbox_inches="tight", dpi=110)
    pyplot.close(figure)


def plot_weights(cell: Cell, found: List[Entry], path: Path) -> None:
    """Where the regularization goes: of the first seed's weights, by layer and as a histogram."""
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
    for results in sorted((HERE / "results").glob("*.jsonl")):
        lines = read(results)
        if not lines:
            continue
        seconds = sum(line["seconds"] for line in lines.values())
        machines = sorted({f"torch {line['torch']}, {line['machine']}" for line in lines.values()})
        text += f"\n{results.stem}: {len(lines)} runs, {seconds / 3600:.1f} hours of them; {'; '.join(machines)}\n"
        for cell in sorted({(r.task, r.bits, r.granularity, r.scratch) for r in lines if r.bits}):
            found = entries(lines, cell)
            text += table(cell, found)
            main_ones = [entry for entry in found if entry.method in MAIN]
            for kind, plot in (("errors", plot_errors), ("weights", plot_weights)):
                path = results.parent / f"{name(cell)}.{kind}.png"
                plot(cell, main_ones, path)
                text += f"\n![{kind}](results/{path.name})\n"
    (HERE / "RESULTS.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
