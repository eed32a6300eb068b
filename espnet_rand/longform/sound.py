"""The shared means of readers of sound files: bytes of a file, raw samples, and notes on lengths."""

import io
import re
from contextlib import ExitStack
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import soundfile

from espnet_rand.errors import UserError

# seconds by which two lengths of a file may differ without a note
NEAR = 0.1
# bytes that are looked at at a time
_BLOCK = 2**20
# bytes before the sound that need no explanation
OVERHEAD = 2**16

SHORTER = "shorter than its header says"


class AudioError(UserError):
    """A recording cannot be read; the message says why, in one line."""


def difference(length: float, stated: Optional[float]) -> List[str]:
    """The note on a length that is not the header's, both in seconds; None: the header does not say it."""
    if stated is None or abs(length - stated) <= NEAR:
        return []
    return [SHORTER if length < stated else "longer than its header says"]


def left_out(count: int) -> str:
    """The note on bytes that are not read."""
    return f"{count} bytes of it are left out: by its header they are no sound"


def size_of(path: str) -> int:
    """The size of a file in bytes."""
    with open(path, "rb") as file:
        return file.seek(0, io.SEEK_END)


def find(path: str, pattern: bytes, length: int) -> Iterator[int]:
    """Yield where a file matches a pattern, whose matches have `length` bytes."""
    with open(path, "rb") as file:
        text, start = b"", 0
        while block := file.read(_BLOCK):
            rest = text[max(0, len(text) - length + 1) :]
            start += len(text) - len(rest)
            text = rest + block
            for match in re.finditer(pattern, text):
                yield start + match.start()


class Parts(io.RawIOBase):
    """Several parts of a file, read as one file.

    Args:
        path: the file
        parts: where each begins and ends, in bytes
    """

    def __init__(self, path: str, parts: Sequence[Tuple[int, int]]):
        super().__init__()
        self._file = open(path, "rb")  # noqa: SIM115
        self._parts = parts
        self._size = sum(stop - start for start, stop in parts)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        offset, filled = self._position, 0
        for start, stop in self._parts:
            if offset < stop - start and filled < len(buffer):
                self._file.seek(start + offset)
                content = self._file.read(min(len(buffer) - filled, stop - start - offset))
                buffer[filled : filled + len(content)] = content
                filled += len(content)
            offset = max(0, offset - (stop - start))
        self._position += filled
        return filled

    def close(self) -> None:
        self._file.close()
        super().close()


def open_raw(
    file: Union[io.RawIOBase, int], rate: int, channels: int, subtype: str, owned: ExitStack, endian: str = "LITTLE"
) -> soundfile.SoundFile:
    """Open a file of samples and nothing else."""
    options = {"format": "RAW", "subtype": subtype, "endian": endian, "closefd": False}
    return owned.enter_context(soundfile.SoundFile(file, "r", rate, channels, **options))
