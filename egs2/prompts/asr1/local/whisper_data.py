"""Writes data directories for Whisper: recordings with silence behind them, transcripts in one set only."""

import random
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import soundfile
from whisper.normalizers import EnglishTextNormalizer

from espnet_rand.atomic import replacing_directory
from espnet_rand.kaldi import write_data_dir

RATE = 16000
MAX_SECONDS = 10
MIN_WORDS = 3  # utterances of dev and test have these; shorter ones (numbers, letters, "goodbye") are for training
# Whisper learned from 30 s windows that end in silence, and without any it repeats itself (README.md). Training
# utterances get as much as conf/train_whisper.yaml says.
FILLED_SECONDS, TRAINING_SILENCE_SECONDS = 12, 3
SEED = 1

Utterance = Tuple[str, str, str, np.ndarray]  # name, speaker, text, samples at RATE


def split(transcripts: List[str], shares: Dict[str, float]) -> Dict[str, str]:
    """Assign each distinct transcript to a set, by a fixed seed.

    Args:
        shares: the share of each set in the transcripts of MIN_WORDS and more; the rest is for `train`
    """
    order = sorted({text for text in transcripts if len(text.split()) >= MIN_WORDS})
    random.Random(SEED).shuffle(order)
    parts, start = {}, 0
    for part, share in shares.items():
        end = start + round(share * len(order))
        parts.update(dict.fromkeys(order[start:end], part))
        start = end
    return {text: parts.get(text, "train") for text in transcripts}


def write_sets(data_dir: Path, utterances: List[Utterance], shares: Dict[str, float]) -> None:
    """Write the directories of `train` and of each set of `shares`, and the recordings up to MAX_SECONDS."""
    normalize = EnglishTextNormalizer()
    sounds = data_dir / "flac"
    sounds.mkdir(parents=True, exist_ok=True)
    utterances = [u for u in utterances if len(u[3]) <= MAX_SECONDS * RATE]
    parts = split([normalize(text) for _, _, text, _ in utterances], shares)
    for part in ("train", *shares):
        chosen = [u for u in utterances if parts[normalize(u[2])] == part]
        for key, _, _, audio in chosen:
            silence = TRAINING_SILENCE_SECONDS * RATE if part == "train" else FILLED_SECONDS * RATE - len(audio)
            soundfile.write(sounds / f"{key}.flac", np.pad(audio, (0, silence)), RATE)
        folder = data_dir / part
        with replacing_directory(folder) as temporary:
            rows = ((key, speaker, f"{(sounds / key).resolve()}.flac", text) for key, speaker, text, _ in chosen)
            write_data_dir(temporary, rows)
        minutes = sum(len(u[3]) for u in chosen) / RATE / 60
        words = sum(len(normalize(u[2]).split()) for u in chosen)
        print(f"{folder}: {len(chosen)} utterances, {words} words, {minutes:.1f} minutes")
