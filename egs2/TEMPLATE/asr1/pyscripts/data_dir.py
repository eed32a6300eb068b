"""Kaldi-style data directories, which the recipes' local scripts write."""

import shutil
from pathlib import Path


def write_data_dir(directory: Path, rows: list):
    """Write wav.scp, text, utt2spk and spk2utt, in Kaldi's order.

    The directory gets its name when all of it is written; one of that name is replaced.

    Args:
        rows: (utterance, speaker, path of the recording, text); sorting them by utterance must sort them by
            speaker too, so let the utterance's name begin with the speaker's

    Raises:
        ValueError: there are no rows, or two of an utterance
    """
    rows = sorted(rows)
    speakers = {}
    for utterance, speaker, _, _ in rows:
        speakers.setdefault(speaker, []).append(utterance)
    if not rows or len({row[0] for row in rows}) < len(rows):
        raise ValueError(f"{directory}: {len(rows)} utterances, which must be one or more, and different ones")
    lines = {
        "wav.scp": (f"{utterance} {path}" for utterance, _, path, _ in rows),
        "text": (f"{utterance} {text}" for utterance, _, _, text in rows),
        "utt2spk": (f"{utterance} {speaker}" for utterance, speaker, _, _ in rows),
        "spk2utt": (" ".join([speaker, *utterances]) for speaker, utterances in speakers.items()),
    }
    temporary = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in lines.items():
        (temporary / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
