"""Reads and writes Kaldi-style data directories: wav.scp, text, utt2spk, spk2utt."""

from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Tuple, Union

from espnet_rand.errors import UserError


class DataError(UserError):
    """Something is wrong with a data directory; the message says what, in one line."""


def read_lines(path: Path) -> Dict[str, str]:
    """Read a Kaldi-style file: the first word of each line, and the rest.

    A byte order mark before a line is left out, and so are empty lines. Lines may end as on Linux or on Windows. Words
    end at whatever counts as a space, no-break spaces too, as in ESPnet.

    Raises:
        DataError: it is not there, is not UTF-8, or a key comes twice
    """
    content: Dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if "\0" in line:
                    raise UnicodeError("it has zero bytes")
                # lists that were put together have marks within
                words = line.lstrip("\ufeff").split(maxsplit=1)
                if not words:
                    continue
                key, *rest = words
                if key in content:
                    raise DataError(f"{path}: {key} comes twice")
                content[key] = rest[0].strip() if rest else ""
    except UnicodeError as e:
        raise DataError(f"{path}: not to be read as UTF-8: {e}. Fix: save it as UTF-8") from None
    except OSError as e:
        raise DataError(f"{path}: not to be read: {e}") from None
    return content


def spread(keys: Sequence[str], count: int) -> List[str]:
    """Choose `count` of the keys (all, if there are no more), evenly over them, in their order."""
    count = min(count, len(keys))
    return [keys[i * len(keys) // count] for i in range(count)]


def write_data_dir(directory: Path, rows: Iterable[Tuple[str, str, Union[str, Path], str]]) -> None:
    """Write wav.scp, text, utt2spk and spk2utt, in Kaldi's order, into a directory (see atomic.replacing_directory).

    Args:
        rows: (utterance, speaker, path of the recording, text); sorting them by utterance must sort them by
            speaker too, so let the utterance's name begin with the speaker's

    Raises:
        DataError: there are no rows, or two of an utterance
    """
    utterances: Dict[str, List] = {}
    for utterance, *about in rows:
        if utterance in utterances:
            raise DataError(f"{directory}: {utterance} comes twice")
        utterances[utterance] = about
    if not utterances:
        raise DataError(f"{directory}: there are no utterances")
    utterances = dict(sorted(utterances.items()))
    speakers: Dict[str, List[str]] = {}
    for utterance, (speaker, _, _) in utterances.items():
        speakers.setdefault(speaker, []).append(utterance)
    files = {
        "wav.scp": {utterance: path for utterance, (_, path, _) in utterances.items()},
        "text": {utterance: text for utterance, (_, _, text) in utterances.items()},
        "utt2spk": {utterance: speaker for utterance, (speaker, _, _) in utterances.items()},
        "spk2utt": {speaker: " ".join(names) for speaker, names in speakers.items()},
    }
    for name, lines in files.items():
        content = "".join(f"{key} {value}\n" for key, value in lines.items())
        (directory / name).write_text(content, encoding="utf-8")
