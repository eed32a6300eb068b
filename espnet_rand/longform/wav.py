"""Finds the sound of a WAV file by its bytes: headers are wrong at times, see files.py."""

import io
import struct
from contextlib import ExitStack
from typing import BinaryIO, List, NamedTuple, Optional, Sequence, Tuple

import soundfile

from espnet_rand.longform.sound import Parts, difference, left_out, open_raw

# soundfile's names, by the format tag of WAV and the bytes of a sample
_SUBTYPES = {(1, 1): "PCM_U8", (1, 2): "PCM_16", (1, 3): "PCM_24", (1, 4): "PCM_32"}
_SUBTYPES |= {(3, 4): "FLOAT", (3, 8): "DOUBLE", (6, 1): "ALAW", (7, 1): "ULAW"}
_EXTENSIBLE = 0xFFFE
# sizes that are written into a WAV file before its length is known
_UNKNOWN = {0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF}
_HEADER = 44
# zero bytes after the sound that need no explanation
_PADDING = 2**20


class Wave(NamedTuple):
    """The sound of a WAV file, found by its bytes.

    Attributes:
        rate: in Hz
        channels: at least 1
        subtype: as soundfile calls it; None: samples are coded together
        width: bytes of a frame
        speed: bytes of a second
        parts: where sound begins and ends, in bytes; several: recordings one after the other, joined by `cat`
        stated: bytes of the first part as its header says; None: it does not know
        left: bytes after the parts that have another rate or kind
    """

    rate: int
    channels: int
    subtype: Optional[str]
    width: int
    speed: int
    parts: Sequence[Tuple[int, int]]
    stated: Optional[int]
    left: int

    @property
    def frames(self) -> int:
        """The number of frames in all parts."""
        return sum((stop - start) // self.width for start, stop in self.parts)

    def open(self, path: str, owned: ExitStack) -> soundfile.SoundFile:
        """Open the sound of the file `path`, whole frames alone."""
        parts = [(start, stop - (stop - start) % self.width) for start, stop in self.parts]
        return open_raw(owned.enter_context(Parts(path, parts)), self.rate, self.channels, self.subtype, owned)

    def notes(self) -> List[str]:
        """The notes on the file. Where samples are coded together, no more is read than the header states."""
        start, stop = self.parts[0]
        stated = stop - start if self.stated is None else self.stated
        notes = difference((stop - start) / self.speed, stated / self.speed)
        if notes and stop - start > stated and self.subtype is None:
            notes = [left_out(stop - start - stated)]
        if len(self.parts) > 1:
            notes.append(f"{len(self.parts)} recordings in one file, one after the other")
        if self.left:
            notes.append(f"what follows, {self.left} bytes, is of another rate or kind, and left out")
        return notes


def find_wave(file: BinaryIO) -> Optional[Wave]:
    """Find the sound of a WAV file (RIFF or RF64); None: it is none, or has no sound."""
    size = file.seek(0, io.SEEK_END)
    first: Optional[tuple] = None
    parts: List[Tuple[int, int]] = []
    stated: Optional[int] = None
    kind, whole, long, left = None, 0, 0, 0
    position = 0
    while (chunk := _chunk(file, position)) is not None:
        name, length = chunk
        start = position + 8
        if name in (b"RIFF", b"RF64"):
            if file.read(4) != b"WAVE":
                break
            kind, whole, long, position = None, length, 0, start + 4
            continue
        if position == 0:
            break
        if name == b"ds64" and length >= 24:
            long = struct.unpack("<Q", file.read(16)[8:].ljust(8, b"\0"))[0]
        elif name == b"fmt ":
            kind = _kind(file.read(min(length, 40)))
        elif name == b"data":
            first = first or kind
            if first is None:
                break
            if kind != first:
                left = size - start
                break
            known = not {length, length + _HEADER - 8, whole} & _UNKNOWN
            if length == 0xFFFFFFFF and 0 < long < 2**63:
                length, known = long, True
            if not parts and known:
                stated = length
            parts.append((start, _stop(file, start, length, size)))
            length = parts[-1][1] - start
        position = _next(file, start + length, length)
    if not parts:
        return None
    rate, channels, subtype, width, speed = first
    return Wave(rate, channels, subtype, width, speed, parts, stated, left)


def _kind(form: bytes) -> Optional[Tuple[int, int, Optional[str], int, int]]:
    """Read the chunk `fmt `: rate, channels, subtype, bytes of a frame and of a second; None: it makes no sense."""
    if len(form) < 16:
        return None
    tag, channels, rate, speed, width, _ = struct.unpack("<HHIIHH", form[:16])
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = struct.unpack("<H", form[24:26])[0]
    if not channels or not 0 < rate < 2**31 or not width:
        return None
    subtype = None if width % channels else _SUBTYPES.get((tag, width // channels))
    return rate, channels, subtype, width, speed if subtype is None and speed else rate * width


def _chunk(file: BinaryIO, position: int) -> Optional[Tuple[bytes, int]]:
    """Read the name and the length in bytes of the chunk at a position; None: there is no chunk.

    The file stands behind them then.
    """
    file.seek(position)
    header = file.read(8)
    if len(header) < 8 or not all(32 <= byte < 127 for byte in header[:4]):
        return None
    return header[:4], struct.unpack("<I", header[4:])[0]


def _stop(file: BinaryIO, start: int, length: int, size: int) -> int:
    """Find the end of sound whose header says `length` bytes; beyond 4 GB that is too little by 4 GB or more.

    The header is believed where no sound follows; otherwise sound goes on to the end of the file.
    """
    for stop in range(start + length, size + 1, 2**32):
        if _is_no_sound(file, _next(file, stop, length), size, padded=length > 0):
            return stop
    return size


def _next(file: BinaryIO, end: int, length: int) -> int:
    """Find the next chunk. A byte that does not count stands behind an odd length; some writers leave it out."""
    padded = end + length % 2
    return end if _chunk(file, padded) is None and _chunk(file, end) is not None else padded


def _is_no_sound(file: BinaryIO, position: int, size: int, padded: bool) -> bool:
    """Whether no sound follows: nothing, zeros (where `padded`), a tag, another WAV file, or chunks to the end."""
    if position >= size:
        return True
    file.seek(position)
    begin = file.read(12)
    if begin.startswith((b"ID3", b"TAG", b"APETAGEX")) or (begin[:4] in (b"RIFF", b"RF64") and begin[8:] == b"WAVE"):
        return True
    if padded and size - position <= _PADDING and not any(begin):
        return not any(file.read())
    while position < size:
        chunk = _chunk(file, position)
        if chunk is None or position + 8 + chunk[1] > size:
            return False
        position = _next(file, position + 8 + chunk[1], chunk[1])
    return True
