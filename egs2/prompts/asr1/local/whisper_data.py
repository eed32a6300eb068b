"""Writes data directories for Whisper: recordings with silence behind them, transcripts in one set only."""

import random
from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np
import soundfile
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

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


@lru_cache
def normalizer(language: str) -> Callable[[str], str]:
    """Make the normalizer that OpenAI scores a language with; accents stay."""
    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


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


def write_sets(data_dir: Path, utterances: Dict[str, List[Utterance]], shares: Dict[str, float]) -> None:
    """Write the directories of `train` and of each set of `shares`, and the recordings up to MAX_SECONDS.

    Each language is split by itself. Of several languages, `test` is one directory each, such as `test_fr`. Where
    there are others than English, the file `prompt` has Whisper's tokens for the language of each utterance. Of
    English alone long recordings are joined from `test_spoken`: test in the order of `utterances`, with `segments` that
    leave out the silence behind.

    Args:
        utterances: by Whisper's name of their language, such as en
    """
    sets: Dict[str, List[Tuple[str, Utterance]]] = {}
    for language, spoken in utterances.items():
        normalize = normalizer(language)
        spoken = [u for u in spoken if len(u[3]) <= MAX_SECONDS * RATE]
        parts = split([normalize(text) for _, _, text, _ in spoken], shares)
        for part in ("train", *shares):
            name = f"test_{language}" if part == "test" and len(utterances) > 1 else part
            chosen = [(language, u) for u in spoken if parts[normalize(u[2])] == part]
            sets.setdefault(name, []).extend(chosen)
    for name, chosen in sets.items():
        write_set(data_dir / name, chosen, data_dir / "flac", prompts=list(utterances) != ["en"])
    if list(utterances) == ["en"]:
        write_spoken(data_dir / "test_spoken", sets["test"], data_dir / "flac")


def write_set(folder: Path, chosen: List[Tuple[str, Utterance]], sounds: Path, prompts: bool) -> None:
    """Write one directory, and its recordings with silence behind them into `sounds`.

    Args:
        chosen: languages and utterances
        prompts: whether to write the file `prompt`
    """
    sounds.mkdir(parents=True, exist_ok=True)
    for _, (key, _, _, audio) in chosen:
        silence = TRAINING_SILENCE_SECONDS * RATE if folder.name == "train" else FILLED_SECONDS * RATE - len(audio)
        soundfile.write(sounds / f"{key}.flac", np.pad(audio, (0, silence)), RATE)
    with replacing_directory(folder) as temporary:
        rows = ((key, speaker, f"{(sounds / key).resolve()}.flac", text) for _, (key, speaker, text, _) in chosen)
        write_data_dir(temporary, rows)
        if prompts:
            lines = sorted(f"{key} <|{language}|> <|transcribe|>\n" for language, (key, *_) in chosen)
            (temporary / "prompt").write_text("".join(lines), encoding="utf-8")
    minutes = sum(len(u[3]) for _, u in chosen) / RATE / 60
    words = sum(len(normalizer(language)(u[2]).split()) for language, u in chosen)
    print(f"{folder}: {len(chosen)} utterances, {words} words, {minutes:.1f} minutes")


def write_spoken(folder: Path, chosen: List[Tuple[str, Utterance]], sounds: Path) -> None:
    """Write a directory with what is spoken in a set, in its order; each utterance counts as a speaker of its own."""
    spoken = [(f"{number:05d}-{u[0]}", u) for number, (_, u) in enumerate(chosen)]
    with replacing_directory(folder) as temporary:
        rows = ((key, key, f"{(sounds / u[0]).resolve()}.flac", u[2]) for key, u in spoken)
        write_data_dir(temporary, rows)
        lines = (f"{key} {key} 0 {len(u[3]) / RATE:.4f}\n" for key, u in spoken)
        (temporary / "segments").write_text("".join(lines), encoding="utf-8")
