"""Tables and plots of the results so far: RESULTS.md and results/*.png beside this file.

python benchmarks/methods/report.py
"""

import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import matplotlib
import numpy as np

from espnet_rand.atomic import write_text
from espnet_rand.reporting import markdown

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import findings  # noqa: E402
from entries import Cell, Entry, cells, entries, name  # noqa: E402
from methods import MAIN, METHODS  # noqa: E402
from training import EDGES  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def holm(p_values: Sequence[Optional[float]]) -> List[Optional[float]]:
    """Correct p values for their number (Holm, 1979)."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: List[Optional[float]] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[i] = largest
    return corrected


def _p(p: Optional[float]) -> str:
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def _above(entry: Entry, reference: Entry) -> str:
    """By how many percent an entry is above float, with the 95% interval."""
    above = entry.beyond(reference) if entry.method != reference.method == "float" else None
    return "" if above is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(above.value, *above.interval)


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
        "above float, %",
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
                _above(entry, found[0]),
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
    by_name: Dict[str, List[Entry]] = {}
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
        by_name.update({name(cell): found for cell, found in found_by_cell.items()})
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
    findings.draw(by_name, HERE / "results")
    write_text(HERE / "RESULTS.md", text + details)
    print(text + details)


if __name__ == "__main__":
    main()
