"""Draws what packed files hold, weight by weight: bits, bytes, and the error of rounding."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Union

import numpy as np
from torch import Tensor

from espnet_rand.atomic import replacing
from espnet_rand.errors import NotInstalledError, UserError
from espnet_rand.layers.statistics import relative_error
from espnet_rand.packing.file import PackedModel

# endings of names
_KINDS = ("png", "pdf", "svg")
# inches, and dots an inch: an image has 2^16 dots at most
_WIDTH, _ROW, _HIGHEST, _DOTS = 16.0, 0.2, 400.0, 110
# weights; more take minutes to draw, and nobody reads them
_MOST = 2000
# errors below it have a bar of this length: the axis is logarithmic
_LEAST = 1e-8


class PictureError(UserError):
    """The picture cannot be drawn as asked."""


def check(path: Path) -> str:
    """See that a picture can be drawn into a file; return its format, by the name's ending.

    Raises:
        PictureError: no such format is known, or the file cannot be written
        NotInstalledError: matplotlib is missing
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise NotInstalledError("--plot needs matplotlib. Fix: pip install matplotlib")
    kind = path.suffix[1:].lower()
    if kind not in _KINDS:
        raise PictureError(f"--plot: {path}: a picture's name ends in {', '.join(_KINDS)}. Fix: name it FILE.png")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise PictureError(f"--plot: {path} is a directory, or cannot be written. Fix: name a file in another folder")
    return kind


def errors(packed: PackedModel, floats: Mapping[str, Tensor]) -> Dict[str, float]:
    """The squared errors of packed weights against float ones, in parts of their sums of squares, by name.

    Weights that `floats` has not, or of another shape, or with numbers that are not finite or not float, are left out.
    """
    found = {}
    for name, weight in packed.weights.items():
        if name in floats and tuple(floats[name].shape) == weight.shape and floats[name].is_floating_point():
            found[name] = relative_error(weight.values(), floats[name]).item()
    return {name: error for name, error in found.items() if np.isfinite(error)}


def draw(
    path: Path, models: Mapping[str, PackedModel], rounding: Mapping[str, Mapping[str, float]], title: str
) -> None:
    """Draw a row for each weight: its bits, its bytes, and its error on a logarithmic axis.

    Args:
        path: see `check`
        models: packed files, by what the legend calls them; a row has a bar for each
        rounding: the `errors` of each, or nothing: there is no such column then
        title: says what the errors are measured against

    Raises:
        PictureError: there is no weight to draw, or there are too many
        OSError: the file cannot be written
    """
    from matplotlib.figure import Figure

    kind = check(path)
    names = sorted({name for packed in models.values() for name in packed.weights}, key=_in_order)
    if not 0 < len(names) <= _MOST:
        raise PictureError(
            f"--plot: {len(names):,} quantized weights: a picture has 1 to {_MOST:,}. Fix: leave --plot out"
        )
    columns: Dict[str, List[Mapping[str, float]]] = {
        "bits": [{name: weight.bits for name, weight in packed.weights.items()} for packed in models.values()],
        "bytes": [{name: weight.bytes for name, weight in packed.weights.items()} for packed in models.values()],
    }
    if rounding:
        columns[title] = [{name: max(e, _LEAST) for name, e in rounding[label].items()} for label in models]
    height = min(_ROW * len(names) * (0.5 + 0.5 * len(models)) + 1.5, _HIGHEST)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, (what, values) in zip(panels, columns.items()):
        _bars(axes, names, values)
        axes.set_xlabel(_plain(what), parse_math=False)
        axes.set_xscale("log" if what == title else "linear")
    panels[0].set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=7, parse_math=False)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    legend = figure.legend(panels[0].containers, list(models), loc="outside upper left", ncols=1, fontsize=8)
    for text in legend.get_texts():
        text.set(parse_math=False, text=_plain(text.get_text()))
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=_DOTS)


def _bars(axes: Any, names: Sequence[str], values: Sequence[Mapping[str, float]]) -> None:
    """Draw a bar for each weight and model; one that has no number has none."""
    thick = 0.8 / len(values)
    for number, numbers in enumerate(values):
        places = np.arange(len(names)) + (number - (len(values) - 1) / 2) * thick
        axes.barh(places, [numbers.get(name, np.nan) for name in names], thick)
    axes.grid(axis="x", alpha=0.3)


def _in_order(name: str) -> List[Union[str, int]]:
    """A key by which layer 2 comes before layer 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]{1,9})", name)]


def _plain(text: str) -> str:
    """A text that may be from anybody, in characters that can be drawn, and not without end."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 100 else f"{text[:50]}...{text[-45:]}"
