"""The plots of README.md, one for each finding: results/finding.*.png. report.py draws them with its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Sequence

import matplotlib
from entries import Entry

from espnet_rand.reporting import Estimate

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

SEEDS = 3  # with fewer a result is a lead
FLOAT = "float"
# what a method is called, and its colour, the same in all plots
STYLES = {
    FLOAT: ("float", "black"),
    "round": ("rounded, no training", "tab:gray"),
    "calibrated": ("calibrated, no training", "tab:olive"),
    "ste": ("straight-through, scale of the largest weight", "tab:gray"),
    "clip": ("straight-through, scale of clip search", "tab:blue"),
    "lsc_clip": ("learnable scale, from clip search", "tab:green"),
    "brevitas": ("brevitas, learnable scale", "tab:purple"),
    "pqn": ("noise, scale of the largest weight", "tab:brown"),
    "rand_m1_ste": ("RAND mode 1, straight-through", "tab:orange"),
    "rand_m2_ste": ("RAND mode 2, c = k^(-1/p)", "tab:pink"),
    "rand_m2_ste_mean1": ("RAND mode 2, c of a mean", "tab:cyan"),
    "rand_m3_ste": ("RAND mode 3, straight-through", "tab:red"),
    "rand_m1_pqn": ("RAND mode 1, noise", "gold"),
    "rand_m3_pqn": ("RAND mode 3, noise", "tab:pink"),
    "rand_m3_ste_taught_calibrated": ("RAND mode 3, calibrated, then taught by float", "tab:red"),
    "lsc_clip_taught_calibrated": ("learnable scale, calibrated, then taught by float", "tab:green"),
    "rand_m3_ste_taught_drawn3": ("one RAND model for 8, 4 and 3 bits, taught by float", "tab:blue"),
}


@dataclass(frozen=True)
class Finding:
    """A plot: a row for each cell, in it a bar for each method.

    Attributes:
        cells: their names -> what the rows are called
        methods: those of STYLES that are shown, in this order
        to_float: shows by how many percent a method is above float, paired by sentence and seed
    """

    cells: Mapping[str, str]
    methods: Sequence[str]
    to_float: bool = False


_LONG = {
    "mini.w2.channel": "digits, 2 bits,\na scale a channel",
    "mini.w2.tensor": "digits, 2 bits,\na scale a tensor",
    "mini.w3.tensor": "digits, 3 bits,\na scale a tensor",
    "queen.w4.channel": "Whisper, queen, 4 bits,\na scale a row",
    "queen.w4.column": "Whisper, queen, 4 bits,\nembedding by columns",
    "prompts.w4.channel": "Whisper, prompts, 4 bits,\na scale a row",
    "prompts.w4.mixed": "Whisper, prompts, 4 bits,\nembedding by 32 weights",
    "prompts.w4.column": "Whisper, prompts, 4 bits,\nembedding by columns",
    "prompts.w4.group": "Whisper, prompts, 4 bits,\ngroups of 64",
    "queen_bf16.w8.group32_asymmetric": "Whisper, queen, 8 bits,\ngroups of 32, zero points",
    "queen_bf16.w4.group32_asymmetric": "Whisper, queen, 4 bits,\ngroups of 32, zero points",
    "queen_bf16.w3.group32_asymmetric": "Whisper, queen, 3 bits,\ngroups of 32, zero points",
    "help.w4.channel": "translation, 4 bits,\na scale a channel",
    "help.w4.tensor": "translation, 4 bits,\na scale a tensor",
    "help.w2.channel": "translation, 2 bits,\na scale a channel",
    "help.w2.tensor": "translation, 2 bits,\na scale a tensor",
}


def _cells(*names: str) -> Dict[str, str]:
    return {name: _LONG[name] for name in names}


FINDINGS = {
    "gradient": Finding(
        _cells("mini.w2.tensor", "mini.w2.channel", "queen.w4.channel", "queen.w4.column", "prompts.w4.column"),
        (FLOAT, "ste", "rand_m1_ste", "pqn", "rand_m1_pqn"),
    ),
    "start": Finding(
        _cells("mini.w2.tensor", "mini.w2.channel", "queen.w4.channel", "prompts.w4.channel"),
        (FLOAT, "ste", "rand_m1_ste", "rand_m3_ste", "clip", "lsc_clip", "brevitas"),
    ),
    "columns": Finding(
        _cells("prompts.w4.channel", "prompts.w4.mixed", "prompts.w4.column", "queen.w4.channel", "queen.w4.column"),
        (FLOAT, "ste", "rand_m3_ste", "clip", "lsc_clip"),
    ),
    "mode2": Finding(
        _cells("mini.w2.tensor", "mini.w3.tensor", "mini.w2.channel", "prompts.w4.column"),
        (FLOAT, "rand_m2_ste", "rand_m2_ste_mean1", "rand_m3_ste"),
    ),
    "noise": Finding(
        _cells("mini.w2.tensor", "mini.w2.channel", "queen.w4.channel", "prompts.w4.group", "prompts.w4.column"),
        (FLOAT, "pqn", "ste", "rand_m3_pqn", "rand_m3_ste"),
    ),
    "calibration": Finding(
        _cells("queen.w4.column", "prompts.w4.column", "prompts.w4.channel", "mini.w2.channel", "mini.w2.tensor"),
        (FLOAT, "calibrated", "rand_m3_ste", "lsc_clip"),
    ),
    "near_float": Finding(
        _cells(
            "queen_bf16.w8.group32_asymmetric", "queen_bf16.w4.group32_asymmetric", "queen_bf16.w3.group32_asymmetric"
        ),
        ("calibrated", "rand_m3_ste_taught_calibrated", "lsc_clip_taught_calibrated", "rand_m3_ste_taught_drawn3"),
        to_float=True,
    ),
    "translation": Finding(
        _cells("help.w4.channel", "help.w4.tensor", "help.w2.channel", "help.w2.tensor"),
        (FLOAT, "calibrated", "ste", "rand_m1_ste", "rand_m2_ste", "rand_m3_ste", "lsc_clip"),
    ),
}


def filling(colour: str, seeds: int) -> str:
    """What a mark is filled with: nothing, where there are too few seeds."""
    return colour if seeds >= SEEDS else "white"


def shown(finding: Finding, found: Mapping[str, Entry]) -> Dict[str, Estimate]:
    """What a plot has of a cell: of each method its measure, or by how many percent it is above float."""
    estimates = {method: found[method].estimate for method in finding.methods if method in found}
    if not finding.to_float:
        return estimates
    above = {method: found[method].beyond(found[FLOAT]) for method in estimates}
    return {method: estimate for method, estimate in above.items() if estimate is not None}  # None: no seed has both


def plot(finding: Finding, by_name: Mapping[str, List[Entry]], path: Path) -> None:
    """Draw a finding to a file. A mark without a filling has fewer than SEEDS seeds."""
    figure, axes = pyplot.subplots(figsize=(6.4, 0.6 + len(finding.cells) * (0.17 * len(finding.methods) + 0.18)))
    middles, y = [], 0.0
    rows = {cell: {entry.method: entry for entry in by_name.get(cell, [])} for cell in finding.cells}
    for found in rows.values():
        estimates = shown(finding, found)
        for method, estimate in estimates.items():
            colour, (low, high) = STYLES[method][1], estimate.interval
            low = low if finding.to_float else max(low, estimate.value / 10)  # above 0, as the axis has a logarithm
            axes.plot([low, high], [y, y], color=colour, linewidth=1.5)
            axes.plot(estimate.value, y, "o", color=colour, mfc=filling(colour, len(found[method].lines)), markersize=5)
            y += 1
        middles.append(y - (len(estimates) + 1) / 2)
        y += 1
    axes.set(yticks=middles, yticklabels=finding.cells.values(), ylim=(y - 1, -1))
    _finish(axes, finding, next(filter(None, rows.values()))[FLOAT].measure.name)
    figure.savefig(path, bbox_inches="tight", dpi=110)
    pyplot.close(figure)


def _finish(axes: pyplot.Axes, finding: Finding, measure: str) -> None:
    """The axis with its unit, and the legend."""
    words = {"WER %": "word errors on test, %", "BLEU": "BLEU on test"}[measure]
    if finding.to_float:
        axes.axvline(0, color="black", linewidth=1)
        words = "word errors beyond float's, %"
    elif measure == "WER %":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(f"{words} (bar: 95%; hollow: fewer than {SEEDS} seeds)", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    handles = [
        Line2D([], [], color=STYLES[method][1], marker="o", markersize=5, label=STYLES[method][0])
        for method in finding.methods
    ]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2, fontsize=8, frameon=False)


def draw(by_name: Mapping[str, List[Entry]], folder: Path) -> None:
    """Draw the findings whose cells have results. by_name: the names of cells -> their entries."""
    for name, finding in FINDINGS.items():
        if any(by_name.get(cell) for cell in finding.cells):
            plot(finding, by_name, folder / f"finding.{name}.png")
