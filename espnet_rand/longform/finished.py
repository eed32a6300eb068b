"""What a run has written to its directory, read again. The directory may be from anybody."""

import hashlib
import json
import math
import stat
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping

from espnet_rand.errors import UserError
from espnet_rand.longform.decoding import Transcript
from espnet_rand.toolkit.recognition import Word

# bytes; a file's name has 255, and endings and numbers of processes take some
_LONGEST_NAME = 200
# bytes; of a transcript in JSON, 250 hours of speech or so
_LARGEST = 2**28


class FinishedError(UserError):
    """A directory holds no results of `asr_inference_long`, or damaged ones."""


def file_name(key: str) -> str:
    """The name of a key's files: one for each key, whatever is in it and however long it is."""
    name = key.replace("%", "%25").replace("/", "%2F")
    text = name.encode()
    if len(text) <= _LONGEST_NAME:
        return name
    return f"{text[: _LONGEST_NAME // 2].decode(errors='ignore')}%_{hashlib.sha256(text).hexdigest()}"


def read_report(directory: Path) -> Dict[str, Dict[str, Any]]:
    """Read the lines of report.jsonl, by their keys.

    Raises:
        FinishedError: it is not there, or is none
    """
    path, lines = directory / "report.jsonl", {}
    try:
        for text in filter(None, _read(path).split("\n")):  # in JSON other line breaks may stand in a text
            line = json.loads(text)
            lines[line["key"]] = {"decoded": line["decoded"] is True, "reason": str(line.get("reason", ""))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise _damaged(path, e) from None
    return lines


def read_transcript(directory: Path, key: str) -> Transcript:
    """Read the transcript of a recording.

    Raises:
        FinishedError: it is not there, or is damaged
    """
    path = directory / "json" / f"{file_name(key)}.json"
    try:
        content = json.loads(_read(path))
        if content["key"] != key:
            raise ValueError("it is of another recording")
        words = [_word(word) for word in content["words"]]
        notes = [_text(note) for note in content["notes"]]
        return Transcript(words, _seconds(content["seconds"]), content["timed"] is True, notes)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise _damaged(path, e) from None


def check(directory: Path, keys: Iterable[str]) -> int:
    """See that what a run has of some recordings can be read; return how many it has.

    Raises:
        FinishedError: some of it is damaged
    """
    report = read_report(directory)
    decoded = [key for key in keys if report.get(key, {}).get("decoded")]
    for key in decoded:
        read_transcript(directory, key)
    return len(decoded)


def _read(path: Path) -> str:
    """Read a file in UTF-8."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        if found.st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise FinishedError(
            f"{path}: not to be read: {e.strerror}. Fix: name the --output_dir of a finished run of asr_inference_long"
        ) from None


def _word(given: Mapping[str, Any]) -> Word:
    """A word, checked."""
    text, space = _text(given["text"]), _text(given.get("space_before", " "))
    if not text.strip():
        raise ValueError("a word without a character")
    return Word(text, _seconds(given["start"]), _seconds(given["end"]), space)


def _text(given: Any) -> str:
    """A text, checked; half characters, which UTF-8 has no bytes for, are replaced."""
    if not isinstance(given, str):
        raise TypeError(f"{type(given).__name__} in place of a text")
    return given.encode("utf-8", "replace").decode("utf-8")


def _seconds(given: Any) -> float:
    """A time, checked."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        raise ValueError(f"a {type(given).__name__} in place of a time, or one that is infinite")
    return float(given)


def _damaged(path: Path, error: Exception) -> FinishedError:
    said = (f"no {error}" if isinstance(error, KeyError) else str(error)).splitlines()[0]
    return FinishedError(f"{path}: damaged, or not of asr_inference_long: {said}. Fix: decode its list again")
