#!/usr/bin/env python3
"""Score long recordings by their length: RESULTS_long.md and RESULTS_long.png in --expdir.

Runs of one system (NAME.1, NAME.2 ...) share a row, as in score.py.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from espnet_rand.atomic import replacing, write_text
from espnet_rand.kaldi import DataError, read_lines
from espnet_rand.longform.scoring import ScoringError, differences, plot, score, tables
from espnet_rand.reporting import runs_of, text_cleaner


def read_seconds(manifest: Path) -> dict:
    """Read the length of each recording, in seconds."""
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return {line["key"]: line["seconds"] for line in lines}


def read_stage(reader, path: Path, stage: int) -> dict:
    """Read by `reader` a file that a stage of asr_long.sh wrote, or exit."""
    try:
        return reader(path)
    except (DataError, OSError) as e:
        sys.exit(f"score_long.py: {e}. Fix: run stage {stage} first")


def read_texts(path: Path, stage: int, cleaner) -> dict:
    """Read the cleaned text of each recording, or exit."""
    return {key: cleaner(text) for key, text in read_stage(read_lines, path, stage).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expdir", type=Path, required=True, help="has SYSTEM/MODE_SET/1best_recog/text")
    parser.add_argument("--datadir", type=Path, required=True, help="has SET/manifest.jsonl and SET/text")
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--decoded", nargs="+", required=True, metavar="MODE:SET", help="e.g. windows:long_test/30s")
    parser.add_argument("--cleaner", default="none", help="of the words that are compared, e.g. whisper_en")
    parser.add_argument("--baseline", default="", metavar="SYSTEM", help="what the others are compared with")
    args = parser.parse_args()
    named = runs_of(args.systems)
    if args.baseline and args.baseline not in named:
        sys.exit(f"score_long.py: --baseline: {args.baseline} is not one of {', '.join(named)}")
    cleaner = text_cleaner(args.cleaner)
    scores = []
    for name, systems in named.items():
        for mode, _, test_set in (pair.partition(":") for pair in args.decoded):
            test_set = os.path.normpath(test_set)  # the name of a further set ends in /.
            data = args.datadir / test_set
            seconds = read_stage(read_seconds, data / "manifest.jsonl", 8)
            references = read_texts(data / "text", 8, cleaner)
            hypotheses = {
                system.removeprefix(name): read_texts(
                    args.expdir / system / f"{mode}_{test_set}/1best_recog/text", 9, cleaner
                )
                for system in systems
            }
            try:
                scores.append(score(f"{name}, {mode}", test_set, seconds, references, hypotheses))
            except ScoringError as e:
                sys.exit(f"score_long.py: {e}")
    text = tables(scores)
    if args.baseline:
        modes = dict.fromkeys(pair.partition(":")[0] for pair in args.decoded)
        others = [name for name in named if name != args.baseline]
        text += "\n" + differences(
            scores, {f"{n}, {mode}": f"{args.baseline}, {mode}" for n in others for mode in modes}
        )
    write_text(args.expdir / "RESULTS_long.md", f"{text}\n![WER against length](RESULTS_long.png)\n")
    with replacing(args.expdir / "RESULTS_long.png") as temporary:
        plot(scores, temporary)
    print(f"{text}This is in {args.expdir}/RESULTS_long.md, with a plot")


if __name__ == "__main__":
    main()
