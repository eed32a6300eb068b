#!/usr/bin/env python3
"""Make Kaldi-style data directories of LibriSpeech.

An utterance has LibriSpeech's own name, <speaker>-<chapter>-<number>, and wav.scp its FLAC file as it is.
"""

import argparse
import gzip
import sys
from pathlib import Path

from rich.progress import track
from sets import TRAIN_SETS, chosen_sets, parts_of

from espnet_rand.atomic import replacing, replacing_directory
from espnet_rand.kaldi import DataError, read_lines, write_data_dir


def read_chapter(transcripts: Path) -> list:
    """Read the rows (see write_data_dir) of one .trans.txt and the recordings beside it.

    Raises:
        DataError: a recording has no transcript or a transcript no recording, or see read_lines
    """
    speaker = transcripts.parents[1].name
    recordings = {path.stem: path for path in transcripts.parent.glob("*.flac")}
    texts = read_lines(transcripts)
    for utterance in sorted(texts.keys() ^ recordings.keys()):
        lacks = "transcript" if utterance in recordings else "recording"
        raise DataError(
            f"{transcripts.parent}: {utterance} has no {lacks}. Fix: this copy of LibriSpeech is not whole, get "
            f"{transcripts.parents[2].name} again"
        )
    return [(utterance, speaker, recordings[utterance], text) for utterance, text in texts.items()]


def read_part(part: Path) -> list:
    """Read the rows (see write_data_dir) of one part.

    Raises:
        DataError: it has no transcripts, or see read_chapter
    """
    chapters = sorted(part.glob("*/*/*.trans.txt"))
    if not chapters:
        raise DataError(
            f"{part} has no <speaker>/<chapter>/*.trans.txt. Fix: let --librispeech name the folder that holds "
            f"{part.name}, unpacked; --train_set train_clean_100 needs fewer parts"
        )
    shown = track(chapters, part.name, disable=not sys.stdout.isatty())
    return [row for chapter in shown for row in read_chapter(chapter)]


def write_lm_text(archive: Path, path: Path) -> None:
    """Turn LibriSpeech's text for language models, one sentence a line, into a Kaldi-style text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        gzip.open(archive, "rt", encoding="utf-8") as source,
        temporary.open("w", encoding="utf-8") as target,
    ):
        sentences = filter(None, map(str.strip, source))
        target.writelines(f"lm-{number:08d} {sentence}\n" for number, sentence in enumerate(sentences))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--librispeech", type=Path, required=True, help="the folder that holds dev-clean and so on")
    parser.add_argument("--datadir", type=Path, required=True)
    parser.add_argument("--train_set", choices=TRAIN_SETS, required=True)
    parser.add_argument("--lm_text", type=Path, help="librispeech-lm-norm.txt.gz, to make <datadir>/lm/text of")
    args = parser.parse_args()
    try:
        rows = {part: read_part(args.librispeech.resolve() / part) for part in parts_of(args.train_set)}
    except DataError as e:
        sys.exit(f"prepare.py: {e}")
    for name, parts in chosen_sets(args.train_set).items():
        joined = [row for part in parts for row in rows[part]]
        with replacing_directory(args.datadir / name) as directory:
            write_data_dir(directory, joined)
        print(f"{args.datadir / name}: {len(joined)} utterances, {len({row[1] for row in joined})} speakers")
    if args.lm_text:
        write_lm_text(args.lm_text, args.datadir / "lm/text")


if __name__ == "__main__":
    main()
