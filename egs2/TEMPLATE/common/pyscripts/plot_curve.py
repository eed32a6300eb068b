#!/usr/bin/env python3
"""Plot a table of score.py: size against its first measure, a line for each kind of system.

Systems NAME_wBITS and NAME_bBITS are points of the line NAME; others (the float model) are horizontal lines.
Where a system is several runs, its point is their mean, with a bar from the lowest to the highest.
"""

import argparse
import re
from pathlib import Path

import matplotlib

from espnet_rand.atomic import replacing

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def read_table(path: Path) -> tuple:
    """Read a table: the first measure's name, and for each row a tuple. Several test sets have lines of their own.

    A row's tuple: its name, whether it is a point of a line, the size in kB, the measure's mean, lowest and highest.
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    header, _, *rows = rows
    measure = header[header.index("sentences") + 1]
    rows = [dict(zip(header, row)) for row in rows]
    several = len({row["set"] for row in rows}) > 1
    points = []
    for row in rows:
        numbers = [float(number) for number in re.findall(r"[\d.]+", row[measure])]
        match = re.fullmatch(r"(.+)_[wb][\dp]+", row["system"])
        name = (match[1] if match else row["system"]) + (f", {row['set']}" if several else "")
        points.append((name, bool(match), float(row["size kB"]), numbers[0], min(numbers), max(numbers)))
    return measure, points


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a .png or .pdf file")
    args = parser.parse_args()

    lines = {}
    measure, rows = read_table(args.table)
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, of_a_line, *point in rows:
        if of_a_line:
            lines.setdefault(name, []).append(point)
        else:
            axes.axhline(point[1], linestyle="--", color="gray", linewidth=1)
            axes.annotate(name, (1, point[1]), xycoords=("axes fraction", "data"), fontsize=8)
    for name, points in lines.items():
        sizes, means, lowest, highest = zip(*sorted(points))
        errors = [[m - low for m, low in zip(means, lowest)], [high - m for m, high in zip(means, highest)]]
        mixed = name.partition(",")[0].endswith("mixed")
        axes.errorbar(sizes, means, errors, label=name, marker="s" if mixed else "o", capsize=2, markersize=4)
    axes.set_xlabel("size of the packed file, kB")
    axes.set_ylabel(measure)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    with replacing(args.output) as temporary:
        figure.savefig(temporary, format=args.output.suffix[1:], dpi=120)
    print(f"This curve is in {args.output}")


if __name__ == "__main__":
    main()
