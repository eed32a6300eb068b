#!/usr/bin/env python3
"""Score the decoded systems; print one Markdown table, and write it to a file.

--scorer says what is measured: a Python file with score(references, hypotheses), which returns numbers by their names.
It may have compare(references, runs, baseline), too, which gets the hypotheses of each run of a system and of
--baseline, and returns texts by their names; and notes(), lines that belong below the table.
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
from espnet_rand.reporting import markdown, runs_of, text_cleaner


def read_texts(reference: Path, hypothesis: Path, clean) -> tuple:
    """Return the references and the hypotheses, cleaned, in one order."""
    try:
        references, hypotheses = read_lines(reference), read_lines(hypothesis)
    except DataError as e:
        sys.exit(f"score.py: {e}. Fix: remove it, if it is there, and run stages 1 to 6")
    if references.keys() != hypotheses.keys():
        sys.exit(
            f"score.py: {hypothesis} has {len(hypotheses)} of {len(references)} "
            "utterances. Fix: remove its directory and decode again"
        )
    return tuple([clean(texts[key]) for key in references] for texts in (references, hypotheses))


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
    found = {name: text_cleaner(name) for name in set(names)}
    return {test_set: found[name] for test_set, name in zip(test_sets, names)}


class Scoring:
    """Scores systems on test sets, and compares them with the baseline's runs."""

    def __init__(self, args, scorer: dict):
        self.args, self.scorer = args, scorer
        self.clean = cleaners(args.cleaner, args.test_sets)
        self.runs = runs_of(args.systems)
        self.others = {}  # for each test set, the hypotheses of the baseline's runs
        if args.baseline and "compare" in scorer:
            files = {test_set: self.decoded(test_set, self.runs[args.baseline]) for test_set in args.test_sets}
            self.others = {test_set: self.read(test_set, decoded)[1] for test_set, decoded in files.items()}

    def read(self, test_set: str, files: list) -> tuple:
        """Return the references of a test set, and the hypotheses of each file."""
        reference = self.args.datadir / test_set / self.args.reference
        texts = [read_texts(reference, file, self.clean[test_set]) for file in files]
        return texts[0][0], [hypotheses for _, hypotheses in texts]

    def decoded(self, test_set: str, systems: list) -> list:
        """Return the files of what systems decoded."""
        name = f"decode_{test_set}{self.args.tag}/1best_recog/text"
        return [self.args.expdir / system / name for system in systems]

    def row(self, name: str, test_set: str, files: list, weights: str = "-", size: float | None = None) -> dict:
        """Score the runs of one system: a row, by the names of its columns."""
        references, runs = self.read(test_set, files)
        scores = [self.scorer["score"](references, hypotheses) for hypotheses in runs]
        row = {"system": name, "weights": weights, "set": test_set, "sentences": str(len(references))}
        row.update({column: spread([numbers[column] for numbers in scores]) for column in scores[0]})
        row["size kB"] = f"{size / 1000:.0f}" if size else "-"
        if self.others and name != self.args.baseline:
            row.update(self.scorer["compare"](references, runs, self.others[test_set]))
        return row


def make_rows(args, scoring: Scoring) -> list:
    """Score everything: one row for each system and test set."""
    sizes = {
        name: weights_and_sizes([args.expdir / system for system in systems]) for name, systems in scoring.runs.items()
    }
    # All systems are one architecture: any packed one knows the float model's size.
    float_size = next((size[1] for size in sizes.values() if size[1]), None)
    rows = [
        scoring.row(name, test_set, [args.datadir / test_set / name])
        for name in args.given
        for test_set in args.test_sets
    ]
    for name, systems in scoring.runs.items():
        weights, _, size = sizes[name]
        for test_set in args.test_sets:
            rows.append(scoring.row(name, test_set, scoring.decoded(test_set, systems), weights, size or float_size))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expdir", type=Path, required=True)
    parser.add_argument("--datadir", type=Path, required=True)
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--test_sets", nargs="+", required=True)
    parser.add_argument("--reference", default="text", help="the file of a test set with what is right")
    parser.add_argument("--scorer", type=Path, required=True, help="a Python file with score(references, hypotheses)")
    parser.add_argument("--baseline", help="the system that others are compared with, if the scorer compares")
    parser.add_argument("--given", nargs="+", default=[], help="files of the test sets that are scored as systems are")
    parser.add_argument("--tag", default="", help="what the names of decoding directories and of the table end in")
    parser.add_argument("--table", default="RESULTS", help="the table's name in expdir")
    parser.add_argument("--cleaner", nargs="+", default=["none"], help="e.g. whisper_en; one, or one for each test set")
    args = parser.parse_args()
    if args.baseline and args.baseline not in runs_of(args.systems):
        sys.exit(f"score.py: --baseline: {args.baseline} is not one of {', '.join(runs_of(args.systems))}")
    scorer = runpy.run_path(str(args.scorer))
    rows = make_rows(args, Scoring(args, scorer))
    header = list(dict.fromkeys(column for row in rows for column in row))
    table = markdown(header, [[row.get(column, "-") for column in header] for row in rows])
    if "notes" in scorer:
        table += "".join(f"\n{note}\n" for note in scorer["notes"]())
    path = args.expdir / f"{args.table}{args.tag}.md"
    write_text(path, table)
    print(f"{table}This table is in {path}")


if __name__ == "__main__":
    main()
