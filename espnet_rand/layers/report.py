"""The report of what was quantized and what was not, as a table and as plain data."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Tuple

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class QuantizedEntry:
    """One quantized weight.

    Attributes:
        layer: the layer's type, here and below; empty for a packed file, which does not hold it
        bytes_before, bytes_after: its size in float, and that of codes of `bits` bits with the scales
        shared: the weight's further names, in other layers that have it
    """

    name: str
    layer: str
    shape: Tuple[int, ...]
    scales: int
    bits: int
    quantizer: str
    bytes_before: int
    bytes_after: int
    shared: Tuple[str, ...] = ()


@dataclass(frozen=True)
class FloatEntry:
    """The parameters of one module that stay in float, and why."""

    name: str
    layer: str
    parameters: int
    bytes: int
    reason: str


@dataclass(frozen=True)
class Report:
    """The report of what `quantize` did. It prints as a table; `to_dict` is plain data for YAML."""

    quantized: List[QuantizedEntry] = field(default_factory=list)
    left_in_float: List[FloatEntry] = field(default_factory=list)

    @property
    def totals(self) -> Dict[str, Any]:
        """The numbers of weights, and the bytes before and after, float parts included."""
        kept = sum(entry.bytes for entry in self.left_in_float)
        before = kept + sum(entry.bytes_before for entry in self.quantized)
        after = kept + sum(entry.bytes_after for entry in self.quantized)
        return {
            "quantized_weights": sum(math.prod(entry.shape) for entry in self.quantized),
            "float_parameters": sum(entry.parameters for entry in self.left_in_float),
            "bytes_before": before,
            "bytes_after": after,
            "ratio": round(before / after, 3),
        }

    def to_dict(self) -> Dict[str, Any]:
        """A mapping of totals, quantized and left_in_float, of lists, strings and numbers only."""
        quantized = [
            {**asdict(entry), "shape": list(entry.shape), "shared": list(entry.shared)} for entry in self.quantized
        ]
        return {
            "totals": self.totals,
            "quantized": quantized,
            "left_in_float": [asdict(entry) for entry in self.left_in_float],
        }

    def __str__(self) -> str:
        known = any(entry.layer for entry in self.quantized)
        layers = _table("weight", *["layer"] * known, "shape", ">scales", ">bits", "quantizer", ">bytes", ">after")
        for e in self.quantized:
            shape = "x".join(map(str, e.shape))
            cells = (e.name, *[e.layer] * known, shape, e.scales, e.bits, e.quantizer, e.bytes_before, e.bytes_after)
            layers.add_row(*map(str, cells))
        shared = _table("one weight of several layers", "is also")
        for e in self.quantized:
            if e.shared:
                shared.add_row(e.name, ", ".join(e.shared))
        kept = _table("left in float", ">modules", ">parameters", "for example")
        for reason in dict.fromkeys(entry.reason for entry in self.left_in_float):
            entries = [entry for entry in self.left_in_float if entry.reason == reason]
            count = sum(entry.parameters for entry in entries)
            example = f"{entries[0].name} ({entries[0].layer})".removesuffix(" ()")
            kept.add_row(reason, str(len(entries)), str(count), example)
        t = self.totals
        others, all_of_it = (
            ("parameters in float", "all parameters") if known else ("other numbers", "all parameters and buffers")
        )
        summary = (
            f"quantized {t['quantized_weights']:,} weights in {len(self.quantized)} tensors; "
            f"{t['float_parameters']:,} {others}; {all_of_it} "
            f"{t['bytes_before']:,} bytes before, {t['bytes_after']:,} after (1/{t['ratio']:.2f})"
        )
        console = Console(width=200, no_color=True, highlight=False)
        with console.capture() as capture:
            console.print(layers, *[shared] * bool(shared.rows), kept, summary)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return table
