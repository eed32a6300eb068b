"""Draws the drawings of these pages, docs/drawings/*.svg: `python docs/drawings.py`, with matplotlib.

The files are committed. A second run with the same matplotlib writes the same bytes.
"""

import io
from pathlib import Path
from typing import Callable, Dict

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

FOLDER = Path(__file__).parent / "drawings"

INK, GREY, LIGHT, BLUE, ORANGE = "#1f2328", "#6e7781", "#d0d7de", "#0969da", "#bc4c00"
TINTS = ("#b6d7ff", "#ffd8b5", "#b7e6c3", "#e2d0fb", "#fbe38e", "#ffc9d9", "#bfe9ee", "#dfdfdf")
# dark pages get the drawing with light and dark exchanged, its background too
_DARK = "<style>@media (prefers-color-scheme: dark) {#figure_1 {filter: invert(0.9) hue-rotate(180deg)}}</style>"


def rounding() -> None:
    """What a training computes with in place of a weight: rounded, and with noise (3 bits, symmetric grid)."""
    _, axes = plt.subplots(1, 2, figsize=(8.6, 4.1), sharey=True, layout="constrained")
    codes = np.arange(-4, 4)
    ends = np.repeat([-6, *(codes[1:] - 0.5), 6], 2)[1:-1]
    axes[0].plot(ends, np.repeat(codes, 2), color=BLUE, lw=2)
    axes[0].set_title("rounding (ste)", color=BLUE)
    axes[0].annotate("clipped: no gradient\npasses to the weight", (5, 3), (1.4, -1.9), color=GREY, arrowprops=_arrow())
    axes[0].annotate("inside, the gradient\npasses unchanged", (-2, -2), (-5.8, 1.2), color=GREY, arrowprops=_arrow())
    w = np.array([-6, -3.5, 3.5, 6])
    middle = w.clip(-3.5, 3.5)
    axes[1].fill_between(w, middle - 0.5, middle + 0.5, color=ORANGE, alpha=0.3, lw=0)
    axes[1].plot(w, middle, color=ORANGE, lw=2)
    axes[1].set_title("noise (pqn)", color=ORANGE)
    axes[1].annotate(
        "drawn anew in this band,\none step wide", (1.3, 1.7), (-5.8, 2.9), color=GREY, arrowprops=_arrow()
    )
    for axis in axes:
        axis.plot((-6, 6), (-6, 6), color=LIGHT, lw=1, zorder=0)
        axis.set(xlabel="weight, in steps", xlim=(-6, 6), ylim=(-5, 5), xticks=codes, yticks=codes)
        axis.grid(color=LIGHT, lw=0.5)
    axes[0].set_ylabel("what training computes with")


def granularities() -> None:
    """Which weights of a matrix share a scale."""
    outputs, inputs = 4, 8
    row, column = np.mgrid[:outputs, :inputs]
    kinds = {
        "tensor": (0 * row, "1 scale"),
        "channel": (row, "a scale for each output"),
        "group, group_size 4": (row * 2 + column // 4, "a scale for 4 inputs of an output"),
        "column": (column, "a scale for each input"),
    }
    _, axes = plt.subplots(2, 2, figsize=(8.6, 4.6), layout="constrained")
    for axis, (name, (groups, meaning)) in zip(axes.flat, kinds.items()):
        for (i, j), group in np.ndenumerate(groups):
            axis.add_patch(plt.Rectangle((j, outputs - 1 - i), 1, 1, fc=TINTS[group % 8], ec="white", lw=1.5))
        axis.set(xlim=(0, inputs), ylim=(0, outputs), xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"{name}: {meaning}")
        axis.spines[:].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("inputs")
    for axis in axes[:, 0]:
        axis.set_ylabel("outputs")


def gradient() -> None:
    """The gradient of S to each weight of a group, by the formula of the norm."""
    w = np.random.default_rng(3).normal(0, 0.28, 24)
    w[[5, 11, 18]] = 1.0, -0.93, 0.78
    size = np.abs(w)
    mode2 = np.sign(w) * (size / (size**8).sum() ** (1 / 8)) ** 7
    rows = {
        "weights w of a group": (w, GREY),
        "absmax: no gradient": (0 * w, BLUE),
        "rand, mode 1 (p = ∞): the largest weight alone": (np.sign(w) * (size == size.max()), BLUE),
        "rand, modes 2 and 3 (p = 8): all large weights": (mode2, ORANGE),
    }
    _, axes = plt.subplots(4, 1, figsize=(8.6, 5.2), sharex=True, layout="constrained")
    for axis, (title, (values, colour)) in zip(axes, rows.items()):
        axis.bar(range(len(w)), values, color=colour, width=0.6)
        axis.axhline(0, color=INK, lw=0.8)
        axis.set(ylim=(-1.15, 1.15), yticks=(-1, 0, 1), xticks=[])
        axis.set_title(title, loc="left")
    axes[-1].set_xlabel("the weights of the group, one after another")


def life() -> None:
    """The life of a weight, from YAML to a runtime."""
    axis = _canvas(8.6, 2.9)
    stations = (
        ("YAML", "quantizer: rand\nbits: 4", "a float weight\nw = 0.37"),
        (
            "training",
            "rounding or noise;\nthe gradient goes\nto w, by itself and by S",
            "w = 0.37, s = 0.1\ncomputes with 0.4",
        ),
        ("checkpoint", "float weights,\nlearned scales", "w = 0.37\nand c of its group"),
        ("packed file", "integer codes,\na step s a group", "code 4\ns = 0.1"),
        ("runtime", "ESPnet, whisper.cpp,\nONNX Runtime,\nCTranslate2", "multiplies by 4,\nthen by 0.1"),
    )
    for number, (name, what, value) in enumerate(stations):
        x = 0.1 + 1.72 * number
        axis.add_patch(plt.Rectangle((x, 0.95), 1.42, 1.15, fc=TINTS[number], ec=INK, lw=0.8))
        axis.text(x + 0.71, 1.92, name, ha="center", va="center", weight="bold")
        axis.text(x + 0.71, 1.4, what, ha="center", va="center", size=7.5)
        axis.text(x + 0.71, 0.35, value, ha="center", va="center", size=8)
        axis.plot((x + 0.71, x + 0.71), (0.6, 0.9), color=LIGHT)
    for number, step in enumerate(("espnet-rand", "saves", "pack_weights", "ship, export")):
        x = 1.52 + 1.72 * number
        axis.annotate("", (x + 0.3, 1.5), (x, 1.5), arrowprops=_arrow(INK))
        axis.text(x + 0.15, 2.2, step, ha="center", size=7.5, color=GREY)
    axis.annotate("", (2.1, 2.5), (4.4, 2.5), arrowprops=_arrow(GREY))
    axis.text(3.25, 2.62, "a training goes on from its checkpoint, in float", ha="center", size=7.5, color=GREY)


def windows() -> None:
    """How the windows of a long recording are joined."""
    axis = _canvas(8.6, 4.6)
    scale = 8.2 / 78
    axis.text(0.2, 4.35, "a recording of 78 s, in windows of 30 s that overlap by 6 s", weight="bold")
    axis.add_patch(plt.Rectangle((0.2, 4.0), 8.2, 0.18, fc=LIGHT, ec="none"))
    for number in range(3):
        start = 24 * number
        axis.add_patch(plt.Rectangle((0.2 + start * scale, 3.6 - 0.3 * number), 30 * scale, 0.22, fc=TINTS[number]))
        name = f"window {number + 1}: {start} to {start + 30} s"
        axis.text(0.2 + (start + 15) * scale, 3.71 - 0.3 * number, name, ha="center", va="center", size=8)
    axis.add_patch(plt.Rectangle((0.2 + 24 * scale, 3.2), 6 * scale, 1.05, fc="none", ec=ORANGE, ls="--"))
    for x, corner in ((0.2 + 24 * scale, 0.2), (0.2 + 30 * scale, 8.4)):
        axis.plot((x, corner), (3.2, 2.62), color=ORANGE, lw=0.8, ls="--")
    axis.text(0.2, 2.32, "the overlap, 24 to 30 s: both windows heard it", weight="bold")
    _words(axis, 1.65, "window 1", ("we", "saw", "the", "old", "red", "house", "and", "th"), range(5), TINTS[0])
    _words(axis, 1.05, "window 2", ("e", "so", "the", "old", "red", "house", "and", "then"), range(5, 8), TINTS[1])
    for number in range(2, 7):
        axis.plot((1.55 + 0.88 * number,) * 2, (1.41, 1.57), color=ORANGE if number == 4 else GREY, lw=2)
    _words(axis, 0.25, "text", ("we", "saw", "the", "old", "red", "house", "and", "then"), range(8), "white")
    axis.plot((5.07, 5.07), (1.98, 2.16), color=ORANGE, lw=2)
    axis.text(5.15, 2.06, "joint: the pair nearest the middle", size=8, color=ORANGE)


def _words(axis: plt.Axes, y: float, name: str, words: tuple, kept: range, colour: str) -> None:
    """Writes words in boxes, grey where they are not kept."""
    axis.text(0.2, y + 0.16, name, va="center", size=9)
    for number, word in enumerate(words):
        x = 1.15 + 0.88 * number
        if number in kept:
            axis.add_patch(plt.Rectangle((x, y), 0.8, 0.32, fc=colour, ec=INK, lw=0.5))
        axis.text(x + 0.4, y + 0.16, word, ha="center", va="center", size=9, color=INK if number in kept else GREY)


def _arrow(colour: str = GREY) -> Dict[str, object]:
    return {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 2}


def _canvas(width: float, height: float) -> plt.Axes:
    """Axes that fill a drawing, measured in inches, without ticks."""
    axis = plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.axis("off")
    return axis


DRAWINGS: Dict[str, Callable[[], None]] = {
    drawing.__name__: drawing for drawing in (rounding, granularities, gradient, life, windows)
}


def main() -> None:
    """Write all drawings."""
    style = {"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "none", "svg.hashsalt": "espnet_rand"}
    style.update({"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "text.color": INK})
    matplotlib.rcParams.update(style)
    FOLDER.mkdir(exist_ok=True)
    for name, drawing in DRAWINGS.items():
        drawing()
        svg = io.StringIO()
        plt.savefig(svg, format="svg", metadata={"Date": None, "Title": drawing.__doc__})
        plt.close()
        text = svg.getvalue().replace("<defs>", f"{_DARK}\n <defs>", 1)
        (FOLDER / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
