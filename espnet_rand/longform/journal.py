"""Keeps on disk what was heard so far: a killed run goes on after its last finished piece."""

import json
import logging
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from espnet_rand.atomic import lock
from espnet_rand.errors import UserError
from espnet_rand.longform.pieces import Piece
from espnet_rand.toolkit.recognition import Heard, Word

# the first format had no checksums, and no version; the second had the notes of a piece in one text
_VERSION = 3
_BEGINNING, _BEGINNING_OF_FIRST = b'{"version": ', b'{"of": '


class JournalError(UserError):
    """A journal does not belong to this run, is damaged, or another run is at work on it, in one line."""


class Journal:
    """JSON lines: first what is decoded and how, with the pieces; then a line for each finished piece.

    Each line has a checksum, which depends on the first line, and each line of a piece says which piece it is of. Lines
    count up to the first that does not fit: the lines after it are taken out of the file, and are to be heard again.

    The file is locked until `close`, or the end of the process.

    Args:
        path: the file, which is made, with the directories above it; None: nothing is kept
        belongs_to: what is decoded, and how; as JSON it must be the same as in the run that began the journal
        pieces: the pieces that this run would begin with; None: not known, then the journal's count

    Attributes:
        pieces: the pieces of the recording; None until `begin`, unless the journal has some
        heard: the words of the pieces that are finished, the first ones

    Raises:
        JournalError: the journal is of another recording or other options or another version, its first line is
            damaged, or another run is at work on it; it stays as it is
        OSError: the file cannot be made, read or written to
    """

    def __init__(
        self, path: Union[str, Path, None], belongs_to: Dict[str, Any], pieces: Optional[Sequence[Piece]] = None
    ):
        self._path = None if path is None else Path(path)
        self._belongs_to = json.loads(json.dumps(belongs_to))
        self._seed = 0
        self.pieces: Optional[List[Piece]] = None
        self.heard: List[Heard] = []
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b", buffering=0)
        try:
            if not lock(self._file):
                raise JournalError(
                    f"{self._path}: another run is at work on it. Fix: wait for it, stop it, or choose another"
                )
            self._read(pieces)
        except BaseException:
            self.close()
            raise

    def begin(self, pieces: Sequence[Piece]) -> None:
        """Note the pieces of a new run."""
        self.pieces = [*pieces]
        if self._path is not None:
            self._file.truncate(0)
            first = {"version": _VERSION, "of": self._belongs_to, "pieces": self.pieces}
            self._seed = _checksum(first)
            self._write(first, self._seed)

    def add(self, heard: Heard) -> None:
        """Note what was heard in the next piece."""
        number = len(self.heard)
        if self._path is not None:
            line = {"number": number, "piece": self.pieces[number], "heard": heard._asdict()}
            self._write(line, _checksum(line, self._seed))
        self.heard.append(heard)

    def close(self) -> None:
        """Unlock the file."""
        if self._path is not None:
            self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _write(self, line: Dict[str, Any], checksum: int) -> None:
        """Add a line to the file."""
        left = _encoded({**line, "crc32": checksum}) + b"\n"
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as e:  # the run is at fault, not the recording
            raise JournalError(
                f"{self._path}: not to be written: {e.strerror}. Fix: free some space, and start again"
            ) from None

    def _read(self, now: Optional[Sequence[Piece]]) -> None:
        """Read the lines of an earlier run, and cut off those that do not fit; `now`: the pieces of this run."""
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]  # a line that was begun when the run was killed does not count
        if not whole and _BEGINNING.startswith(text[: len(_BEGINNING)]):
            return
        first, *lines = (whole or text).removesuffix(b"\n").split(b"\n")
        pieces = self._begun(first, now)
        heard: List[Heard] = []
        end = len(first) + 1
        for line in lines:
            found = self._finished(line, len(heard), pieces)
            if found is None:
                logging.warning(
                    f"{self._path}: line {len(heard) + 2} is damaged, or of another piece. It is left out, with all "
                    "that follow: their pieces are heard again"
                )
                break
            heard.append(found)
            end += len(line) + 1
        if end < len(text):
            self._file.truncate(end)
        self.pieces, self.heard = pieces, heard

    def _begun(self, line: bytes, now: Optional[Sequence[Piece]]) -> List[Piece]:
        """Read the pieces of the first line, which must belong to this run."""
        first = _checked(line)
        if line.startswith(_BEGINNING_OF_FIRST) or (first is not None and first.get("version") != _VERSION):
            raise JournalError(
                f"{self._path} is of another version of espnet_rand. Fix: choose another --output_dir, or remove it, "
                "to decode the recording again"
            )
        if first is None:
            raise JournalError(f"{self._path}: it is damaged. Fix: remove it, to decode the recording again")
        begun, pieces = first["of"], [Piece(*piece) for piece in first["pieces"]]
        changed = sorted(k for k in {*begun, *self._belongs_to} if begun.get(k) != self._belongs_to.get(k))
        if not changed and now is not None and pieces != [*now]:
            changed = ["pieces"]
        if changed:
            raise JournalError(
                f"{self._path} was begun with other {', '.join(changed)}. Fix: choose another --output_dir, or remove "
                "it, to decode the recording again"
            )
        self._seed = _checksum(first)
        return pieces

    def _finished(self, line: bytes, number: int, pieces: Sequence[Piece]) -> Optional[Heard]:
        """Read what was heard in the piece of a number; None: the line is of another piece, or damaged."""
        content = _checked(line, self._seed)
        if content is None or number == len(pieces):
            return None
        if (content.get("number"), content.get("piece")) != (number, [*pieces[number]]):
            return None
        try:
            heard = Heard(**content["heard"])
            words = [Word(*word) for word in heard.words]
        except (TypeError, KeyError):  # a version whose words have more wrote it
            return None
        if not isinstance(heard.notes, list) or not all(isinstance(note, str) for note in heard.notes):
            return None
        return heard._replace(words=words, notes=tuple(heard.notes))


def _encoded(content: Dict[str, Any], **options: Any) -> bytes:
    """Write JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, **options).encode("utf-8", "surrogatepass")


def _checksum(content: Dict[str, Any], seed: int = 0) -> int:
    """The CRC-32 of a line, which does not depend on the order of its keys."""
    return zlib.crc32(_encoded(content, sort_keys=True, separators=(",", ":")), seed)


def _checked(line: bytes, seed: int = 0) -> Optional[Dict[str, Any]]:
    """Read the content of a line without its checksum; None: the checksum is that of another content."""
    try:
        content = json.loads(line.decode("utf-8", "surrogatepass"))
        given = content.pop("crc32")
        return content if given == _checksum(content, seed) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
