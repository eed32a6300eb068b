#!/usr/bin/env python3
"""Turn Asterisk's core sound prompts into Kaldi-style data directories."""

import argparse
import gzip
import re
import sys
from pathlib import Path

import av
import numpy as np
from whisper_data import RATE, write_sets

from espnet_rand.kaldi import DataError

SPEAKER = "allison"
SUFFIXES = (".g722", ".wav")  # in order of preference: 16 kHz before 8 kHz
SHARES = {"test": 0.36, "dev": 0.18}


def find_one(folder, names):
    """Find the first file of one of these names below a folder, or exit."""
    for name in names:
        for path in sorted(folder.rglob(name)):
            return path
    sys.exit(
        f"{sys.argv[0]}: there is no {' or '.join(names)} below {folder}. Unpack Debian's "
        "asterisk-core-sounds-en and asterisk-core-sounds-en-g722 (or -wav) there."
    )


def read_transcripts(path):
    """Yield (name, text) of the prompts that are speech only."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as f:
        for line in f:
            name, colon, text = line.partition(":")
            if line.startswith(";") or not colon:
                continue
            text = " ".join(text.replace("...", " ").replace("#", "pound").split())
            # "[beep]", "(10 seconds of silence)", "<beep ascending>", "at [@]"
            if text and not re.search(r"[\[(<]", text):
                yield name.strip(), text


def read_audio(path):
    """Decode any format that ffmpeg knows into one channel of 16 kHz samples."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as file:
        frames = [part for f in file.decode(audio=0) for part in resampler.resample(f)]
    frames += resampler.resample(None)
    return np.concatenate([f.to_ndarray()[0] for f in frames])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source_dir", type=Path)
    parser.add_argument("data_dir", type=Path)
    args = parser.parse_args()

    listing = find_one(args.source_dir, ["core-sounds-en.txt", "core-sounds-en.txt.gz"])
    first = find_one(args.source_dir, [f"activated{s}" for s in SUFFIXES])
    prompts, missing = [], 0
    for name, text in read_transcripts(listing):
        source = first.parent / f"{name}{first.suffix}"
        if not source.is_file():
            missing += 1
            continue
        prompts.append((f"{SPEAKER}-{name.replace('/', '_')}", SPEAKER, text, read_audio(source)))
    try:
        write_sets(args.data_dir, prompts, SHARES)
    except DataError as e:
        sys.exit(f"{sys.argv[0]}: too few prompts with recordings are below {first.parent}: {e}")
    if missing:
        print(f"{missing} prompts of the list have no recording")


if __name__ == "__main__":
    main()
