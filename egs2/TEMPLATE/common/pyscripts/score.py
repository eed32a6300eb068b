#!/usr/bin/env python3
"""Score the decoded systems; print one Markdown table, and write it to a file.

--scorer says what is measured: a Python file with score(references, hypotheses), which returns numbers by their names.
The bits and the size are those of a system's packed file; a float system has the size of all its weights. Runs of one
system (NAME.1, NAME.2 ...) share a row: their mean and, in brackets, the lowest and the highest.
"""

import argparse
import runpy
import sys
from pathlib import Path
from statistics import mean

from espnet_rand.atomic import write_text
from espnet_rand.kaldi import DataError, read_lines
from espnet_rand.packing import read_packed, report
from espnet_rand.reporting import markdown, runs_of


def measure(reference: Path, hypothesis: Path, clean, score) -> tuple:
    """Return the number of sentences, and the scorer's numbers by their names."""
    try:
        references, hypotheses = read_lines(reference), read_lines(hypothesis)
    except DataError as e:
        sys.exit(f"score.py: {e}. Fix: remove it, if it is there, and run stages 1 to 6")
    if references.keys() != hypotheses.keys():
        sys.exit(
            f"score.py: {hypothesis} has {len(hypotheses)} of {len(references)} "
            "utterances. Fix: remove its directory and decode again"
        )
    wanted = [clean(references[key]) for key in references]
    return len(wanted), score(wanted, [clean(hypotheses[key]) for key in references])


def weights_and_sizes(directories: list) -> tuple:
    """Say how the weights are stored, and how many bytes the float and the packed model (mean of runs) have."""
    paths = [directory / "packed.safetensors" for directory in directories]
    if not paths[0].exists():
        return "float", None, None
    packed = read_packed(paths[0])
    what = f"{packed.average_bits():.3g} bits, {packed.info['quantizer_conf']['granularity']}"
    return what, report(packed).totals["bytes_before"], mean(path.stat().st_size for path in paths)


def spread(values: list) -> str:
    """Write one value, or the mean and the range of several."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def cleaners(names: list, test_sets: list) -> dict:
    """Return what cleans the texts of each test set; `names`: one for all sets, or one for each."""
    if len(names) not in (1, len(test_sets)):
        sys.exit(
            f"score.py: --cleaner: {len(names)} cleaners for {len(test_sets)} test sets. Fix: give one, or one for each"
        )
    if len(names) == 1:
        names = names * len(test_sets)
    found = {"none": str}
    if set(names) != {"none"}:
        from espnet2.text.cleaner import TextCleaner

        found.update((name, TextCleaner(name)) for name in names if name != "none")
    return {test_set: found[name] for test_set, name in zip(test_sets, names)}


def make_rows(args, clean, score) -> list:
    """Score everything: one row for each system and test set, by the names of its columns."""
    runs = {name: [args.expdir / system for system in systems] for name, systems in runs_of(args.systems).items()}
    sizes = {name: weights_and_sizes(dirs) for name, dirs in runs.items()}
    # All systems are one architecture: any packed one knows the float model's size.
    float_size = next((size[1] for size in sizes.values() if size[1]), None)
    rows = []
    for name, dirs in runs.items():
        weights, _, size = sizes[name]
        size = size or float_size
        for test_set in args.test_sets:
            reference = args.datadir / test_set / args.reference
            decoded = (d / f"decode_{test_set}{args.tag}/1best_recog/text" for d in dirs)
            counts, scores = zip(*(measure(reference, text, clean[test_set], score) for text in decoded))
            row = {"system": name, "weights": weights, "set": test_set, "sentences": str(counts[0])}
            row.update({column: spread([numbers[column] for numbers in scores]) for column in scores[0]})
            rows.append({**row, "size kB": f"{size / 1000:.0f}" if size else "-"})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expdir", type=Path, required=True)
    parser.add_argument("--datadir", type=Path, required=True)
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--test_sets", nargs="+", required=True)
    parser.add_argument("--reference", default="text", help="the file of a test set with what is right")
    parser.add_argument("--scorer", type=Path, required=True, help="a Python file with score(references, hypotheses)")
    parser.add_argument("--tag", default="", help="what the names of decoding directories and of the table end in")
    parser.add_argument("--table", default="RESULTS", help="the table's name in expdir")
    parser.add_argument("--cleaner", nargs="+", default=["none"], help="e.g. whisper_en; one, or one for each test set")
    args = parser.parse_args()
    rows = make_rows(args, cleaners(args.cleaner, args.test_sets), runpy.run_path(str(args.scorer))["score"])
    table = markdown(list(rows[0]), [list(row.values()) for row in rows])
    path = args.expdir / f"{args.table}{args.tag}.md"
    write_text(path, table)
    print(f"{table}This table is in {path}")


if __name__ == "__main__":
    main()
