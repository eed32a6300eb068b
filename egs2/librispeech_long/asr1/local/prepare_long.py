#!/usr/bin/env python3
"""Make data directories of LibriSpeech-Long (Park et al., arXiv 2412.18603): <part>/<speaker>/<chapter>/*.flac, *.txt.

The transcripts are written as LibriSpeech's are: capitals and apostrophes.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import soundfile

from espnet_rand.atomic import replacing_directory
from espnet_rand.kaldi import write_data_dir

PARTS = ["dev-clean", "dev-other", "test-clean", "test-other"]


def read_part(part: Path) -> list:
    """Read the rows (see write_data_dir) of a part."""
    rows = []
    for flac in sorted(part.glob("*/*/*.flac")):
        transcript = flac.with_suffix(".txt")
        if not transcript.is_file():
            sys.exit(f"prepare_long.py: {transcript} is not there. Fix: this copy is not whole, unpack it again")
        words = re.sub(r"[^A-Z' ]", " ", transcript.read_text(encoding="utf-8").upper()).split()
        speaker = flac.parents[1].name
        rows.append((f"{speaker}-{flac.stem}", speaker, flac, " ".join(words)))
    if not rows:
        sys.exit(
            f"prepare_long.py: {part} has no <speaker>/<chapter>/*.flac. Fix: name the folder that holds {part.name}"
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--librispeech_long", type=Path, required=True, help="the folder that holds dev-clean and so on"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    for name in PARTS:
        rows = read_part(args.librispeech_long.resolve() / name)
        directory = args.output_dir / f"librispeech_long_{name.replace('-', '_')}"
        with replacing_directory(directory) as temporary:
            write_data_dir(temporary, rows)
            lines = ({"key": key, "seconds": soundfile.info(flac).duration} for key, _, flac, _ in rows)
            (temporary / "manifest.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
            )
        print(f"{directory}: {len(rows)} recordings")


if __name__ == "__main__":
    main()
