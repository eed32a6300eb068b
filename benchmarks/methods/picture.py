"""The picture of the README: the size of Whisper tiny.en's file against its word errors on queen.

python benchmarks/methods/picture.py           # docs/drawings/sizes.png, from results/
python benchmarks/methods/picture.py --pack    # results/sizes.json first, which wants the recipe's data
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from entries import HERE, Entry, cells, entries, name
from findings import FLOAT, SEEDS, filling, pyplot
from lines import finished
from measures import WordErrors
from methods import METHODS
from tasks import TASKS

from espnet_rand.atomic import write_text
from espnet_rand.packing import pack_model, write_packed

TASK = "queen_bf16"
SIZES = HERE / "results" / "sizes.json"
PICTURE = HERE.parents[1] / "docs" / "drawings" / "sizes.png"


class Curve(NamedTuple):
    """A method's results, joined by a line: cells -> what stands beside them."""

    text: str
    method: str
    colour: str
    cells: Dict[str, str]


CURVES = (
    Curve("rounded", "round", "tab:gray", {"w4.group32": "4 bits"}),
    Curve(
        "calibrated, no training",
        "calibrated",
        "tab:olive",
        {"w4.group32_asymmetric": "4 bits", "w3.group32_asymmetric_rotated": "3 bits ¹"},
    ),
    Curve(
        "RAND, calibrated, then taught by float",
        "rand_m3_ste_taught_calibrated",
        "tab:red",
        {
            "w4.group32_asymmetric": "4 bits",
            "w3.group32_asymmetric": "3 bits",
            "w2.group32_asymmetric_rotated": "2 bits ¹",
        },
    ),
)


def sizes() -> Dict[str, int]:
    """Pack the float model in each cell; return the bytes of the files, and those of the float weights."""
    task = TASKS[TASK]()
    found = {FLOAT: sum(4 * tensor.numel() for tensor in task.build().state_dict().values())}
    for cell in dict.fromkeys(cell for curve in CURVES for cell in curve.cells):
        bits, granularity = cell.removeprefix("w").split(".")
        model = task.build()
        METHODS["search"].apply(model, int(bits), granularity, lambda _: None)
        with tempfile.TemporaryDirectory() as folder:
            write_packed(path := Path(folder, "packed.safetensors"), pack_model(model))
            found[cell] = path.stat().st_size
    return found


def draw(by_cell: Dict[str, Dict[str, Entry]], size: Dict[str, int]) -> None:
    """Draw the picture."""
    figure, axes = pyplot.subplots(figsize=(6.8, 3.6))
    model = next(iter(by_cell.values()))[FLOAT]
    _plot(axes, "float", "black", [(size[FLOAT], model)], [""])
    for curve in CURVES:
        there = {cell: by_cell[cell][curve.method] for cell in curve.cells if curve.method in by_cell.get(cell, {})}
        labels = [curve.cells[cell] for cell in there]
        if not there:
            continue
        _plot(axes, curve.text, curve.colour, [(size[cell], entry) for cell, entry in there.items()], labels)
    runtime = [line for line in finished(HERE / "results" / "whisper_cpp" / f"{TASK}.jsonl") if line["kind"] == "q4_0"]
    if runtime:
        place = runtime[0]["bytes"] / 1e6, statistics.mean(WordErrors.value(line["test"]) for line in runtime)
        colour = "tab:blue"
        axes.plot(*place, "s", color=colour, mfc=filling(colour, len(runtime)), label="whisper.cpp, its own q4_0")
        axes.annotate("4 bits", place, (6, 4), textcoords="offset points", fontsize=8)
    axes.set(
        xscale="log",
        xlabel=f"size of the file, MB (bars: 95%; hollow: fewer than {SEEDS} seeds; ¹ rotated)",
        ylabel="word errors, %",
    )
    axes.set_xticks([15, 20, 25, 30, 50, 100, 150], [15, 20, 25, 30, 50, 100, 150])
    axes.minorticks_off()
    axes.axhline(model.value, color="black", linewidth=0.5, linestyle=":")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(PICTURE, bbox_inches="tight", dpi=110)


def _plot(axes: pyplot.Axes, text: str, colour: str, points: List[Tuple[int, Entry]], labels: List[str]) -> None:
    """Draw a curve: bytes and results, with what stands beside them."""
    megabytes = [size / 1e6 for size, _ in points]
    axes.plot(megabytes, [entry.value for _, entry in points], color=colour, linewidth=1)
    axes.plot([], [], "o-", color=colour, label=text)
    for x, (_, entry), label in zip(megabytes, points, labels):
        low, high = entry.estimate.interval
        axes.plot([x, x], [max(low, 0), high], color=colour, linewidth=1, alpha=0.5)
        axes.plot(x, entry.value, "o", color=colour, mfc=filling(colour, len(entry.lines)))
        axes.annotate(label, (x, entry.value), (6, 4), textcoords="offset points", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", action="store_true")
    if parser.parse_args().pack:
        write_text(SIZES, json.dumps(sizes(), indent=1) + "\n")
    found = {
        name(cell).removeprefix(f"{TASK}."): {entry.method: entry for entry in entries(lines, cell)}
        for cell, lines in cells(HERE / "results" / f"{TASK}.jsonl").items()
    }
    draw(found, json.loads(SIZES.read_text()))


if __name__ == "__main__":
    main()
