#!/usr/bin/env python3
"""Turn Asterisk's core sound prompts into Kaldi-style data directories."""

import argparse
import gzip
import random
import re
import sys
from pathlib import Path

import av
import numpy as np
import soundfile
from whisper.normalizers import EnglishTextNormalizer

from espnet_rand.atomic import replacing_directory
from espnet_rand.kaldi import write_data_dir

RATE = 16000
SPEAKER = "allison"
SUFFIXES = (".g722", ".wav")  # in order of preference: 16 kHz before 8 kHz
MAX_SECONDS = 10
MIN_WORDS = 3  # of a prompt of dev and test; shorter ones (numbers, letters, "goodbye") are all for training
# Whisper learned from 30 s windows that end in silence. Without any it repeats itself (140% WER
# here); filled up to 12 s it is as good as with 30 s (2.5 and 2.4%), for 40% of the time. Training
# prompts get less, for a third of the time again.
FILLED_SECONDS, TRAINING_SILENCE_SECONDS = 12, 3
SHARES = {"test": 0.36, "dev": 0.18}  # of the transcripts of MIN_WORDS and more; the rest is for training
SEED = 1


def find_one(folder, names):
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


def split(transcripts):
    """Assign each distinct transcript to one of train, dev, test, by a fixed seed."""
    order = sorted({text for text in transcripts if len(text.split()) >= MIN_WORDS})
    random.Random(SEED).shuffle(order)
    parts, start = {}, 0
    for part, share in SHARES.items():
        end = start + round(share * len(order))
        parts.update(dict.fromkeys(order[start:end], part))
        start = end
    return {text: parts.get(text, "train") for text in transcripts}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts_dir", type=Path)
    parser.add_argument("data_dir", type=Path)
    args = parser.parse_args()

    listing = find_one(args.prompts_dir, ["core-sounds-en.txt", "core-sounds-en.txt.gz"])
    first = find_one(args.prompts_dir, [f"activated{s}" for s in SUFFIXES])
    normalize = EnglishTextNormalizer()
    wavs = args.data_dir / "wav"
    wavs.mkdir(parents=True, exist_ok=True)

    prompts, missing = [], 0
    for name, text in read_transcripts(listing):
        source = first.parent / f"{name}{first.suffix}"
        if not source.is_file():
            missing += 1
            continue
        audio = read_audio(source)
        if len(audio) <= MAX_SECONDS * RATE:
            prompts.append((f"{SPEAKER}-{name.replace('/', '_')}", text, audio))

    parts = split([normalize(text) for _, text, _ in prompts])
    for part in ("train", "dev", "test"):
        chosen = [p for p in prompts if parts[normalize(p[1])] == part]
        for key, _, audio in chosen:
            silence = TRAINING_SILENCE_SECONDS * RATE if part == "train" else FILLED_SECONDS * RATE - len(audio)
            soundfile.write(wavs / f"{key}.wav", np.pad(audio, (0, silence)), RATE)
        folder = args.data_dir / part
        with replacing_directory(folder) as temporary:
            rows = ((key, SPEAKER, f"{(wavs / key).resolve()}.wav", text) for key, text, _ in chosen)
            write_data_dir(temporary, rows)
        print(f"{folder}: {len(chosen)} prompts, {sum(len(p[2]) for p in chosen) / RATE / 60:.1f} minutes")
    if missing:
        print(f"{missing} prompts of the list have no recording")


if __name__ == "__main__":
    main()
