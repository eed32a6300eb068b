"""What was heard so far, on disk: a killed run goes on after its last finished piece."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from espnet_rand.errors import UserError
from espnet_rand.longform.pieces import Piece
from espnet_rand.toolkit.recognition import Heard, Word


class JournalError(UserError):
    """A journal does not belong to this run, or is damaged, in one line."""


class Journal:
    """JSON lines: first what is decoded and how, with the pieces; then a line for each finished piece.

    Args:
        path: of the file; None: nothing is kept
        of: what is decoded, and how; as JSON it must be that of the run that began the journal

    Attributes:
        pieces: of the recording; None until `begin`
        heard: of the first pieces, as far as they are finished

    Raises:
        JournalError: the journal is of another recording or other options, or damaged
    """

    def __init__(self, path: Union[str, Path, None], of: Dict[str, Any]):
        self._path = None if path is None else Path(path)
        self._of = json.loads(json.dumps(of))
        self.pieces: Optional[List[Piece]] = None
        self.heard: List[Heard] = []
        if self._path is not None and self._path.exists():
            self._read()

    def begin(self, pieces: List[Piece]) -> None:
        """Note the pieces of a new run."""
        self.pieces = pieces
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write("w", {"of": self._of, "pieces": pieces})

    def add(self, heard: Heard) -> None:
        """Note what was heard in the next piece."""
        self.heard.append(heard)
        if self._path is not None:
            self._write("a", heard._asdict())

    def _write(self, mode: str, line: Dict[str, Any]) -> None:
        with self._path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _read(self) -> None:
        text = self._path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # a line that was begun when the run was killed does not count
        if not whole:
            return
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()]
            pieces = [Piece(int(start), int(stop)) for start, stop in first["pieces"]]
            heard = [Heard([Word(*word) for word in line["words"]], line["timed"], line["note"]) for line in lines]
            begun = first["of"]
        except (ValueError, TypeError, KeyError):
            raise JournalError(f"{self._path}: it is damaged. Mend: remove it, to decode the recording again") from None
        if begun != self._of:
            changed = sorted(k for k in {*begun, *self._of} if begun.get(k) != self._of.get(k))
            raise JournalError(
                f"{self._path} was begun with other {', '.join(changed)}. Mend: choose another --output_dir, or remove "
                "it, to decode the recording again"
            )
        if len(whole) < len(text):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        self.pieces, self.heard = pieces, heard
