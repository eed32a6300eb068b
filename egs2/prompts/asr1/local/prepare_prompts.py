#!/usr/bin/env python3
"""Turn Asterisk's core sound prompts into Kaldi-style data directories."""

import argparse
import gzip
import re
import sys
from collections import defaultdict
from pathlib import Path

import av
import numpy as np
from whisper_data import RATE, write_sets

from espnet_rand.kaldi import DataError

SUFFIXES = (".g722", ".wav")  # in order of preference: 16 kHz before 8 kHz
SHARES = {"test": 0.36, "dev": 0.18}


def find_one(folder, language, names):
    """Find the first file of one of these names below a folder, or exit."""
    for name in names:
        for path in sorted(folder.rglob(name)):
            return path
    package = f"asterisk-core-sounds-{language}"
    sys.exit(
        f"{sys.argv[0]}: there is no {' or '.join(names)} below {folder}. Unpack Debian's {package} and {package}-g722 "
        "(or -wav) there."
    )


def read_transcripts(path, language):
    """Read {name: text} of the prompts that are speech only; a name that comes with two texts is left out."""
    texts = defaultdict(set)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as f:
        for line in f:
            name, colon, text = line.partition(":")
            if line.startswith(";") or not colon:
                continue
            text = text.replace("...", " ")
            if language == "en":
                text = text.replace("#", "pound")
            text = " ".join(text.split())
            # "[beep]", "(10 seconds of silence)", "<beep ascending>", "at [@]"
            if text and not re.search(r"[\[(<#]", text):
                texts[name.strip()].add(text)
    return {name: said.pop() for name, said in texts.items() if len(said) == 1}


def read_audio(path):
    """Decode any format that ffmpeg knows into one channel of 16 kHz samples."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as file:
        frames = [part for f in file.decode(audio=0) for part in resampler.resample(f)]
    frames += resampler.resample(None)
    return np.concatenate([f.to_ndarray()[0] for f in frames])


def read_prompts(folder, language):
    """Read the utterances of a language, as `write_sets` takes them, and how many are listed without a recording."""
    listing = find_one(folder, language, [f"core-sounds-{language}.txt", f"core-sounds-{language}.txt.gz"])
    # Debian's folders are named en_US_f_Allison, fr_CA_f_June
    first = find_one(folder, language, [f"{language}_*/agent-pass{suffix}" for suffix in SUFFIXES])
    speaker = first.parent.name.split("_")[-1].lower()
    prompts, missing = [], 0
    for name, text in read_transcripts(listing, language).items():
        source = first.parent / f"{name}{first.suffix}"
        if not source.is_file():
            missing += 1
            continue
        key = name.replace("/", "_") if language == "en" else f"{language}_{name.replace('/', '_')}"
        prompts.append((f"{speaker}-{key}", speaker, text, read_audio(source)))
    return prompts, missing


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source_dir", type=Path)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--languages", nargs="+", default=["en"], help="those of Debian's packages")
    args = parser.parse_args()
    found = {language: read_prompts(args.source_dir, language) for language in args.languages}
    try:
        write_sets(args.data_dir, {language: prompts for language, (prompts, _) in found.items()}, SHARES)
    except DataError as e:
        sys.exit(f"{sys.argv[0]}: too few prompts with recordings are below {args.source_dir}: {e}")
    for language, (_, missing) in found.items():
        if missing:
            print(f"{language}: {missing} prompts of the list have no recording")


if __name__ == "__main__":
    main()
