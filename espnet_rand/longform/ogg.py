"""Reads the pages of an Ogg file, without decoding: where streams begin, and whether something is missing."""

import struct
import zlib
from typing import BinaryIO, Dict, List, NamedTuple, Optional

from espnet_rand.longform.sound import find

# bytes with their bits the other way round
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# flags of the first and last page of a stream
_FIRST, _LAST = 2, 4


class Ogg(NamedTuple):
    """The streams of an Ogg file, and whether its pages are all there.

    Attributes:
        starts: where streams begin that follow each other, in bytes
        whole: no page is damaged, or missing before the last
        ended: the last page is there
    """

    starts: List[int]
    whole: bool
    ended: bool

    def notes(self, filled: bool = False) -> List[str]:
        """The notes on the file; `filled`: silence is in the place of what is missing."""
        lost = [] if self.whole or filled else ["pages of it are damaged or missing: what follows them may be early"]
        return lost if self.ended else [*lost, "cut off, or never finished: it has no end mark"]


def find_ogg(path: str) -> Optional[Ogg]:
    """Read all pages of an Ogg file; None: it is no such file."""
    starts: List[int] = []
    numbers: Dict[bytes, int] = {}  # the number of the next page, by the stream
    whole, end, flags = True, 0, 0
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return None
        for position in find(path, rb"OggS\x00[\x00-\x07]", 6):
            if position < end:  # the pattern stands within a page by chance
                continue
            file.seek(position)
            page = _page(file)
            if page is None:
                flags = 0
                continue
            first, flags = not flags & _FIRST, page[5]
            stream, number = page[14:18], struct.unpack("<I", page[18:22])[0]
            if flags & _FIRST:
                if first:  # streams side by side begin together
                    starts.append(position)
                numbers[stream] = number
            whole = whole and numbers.get(stream) == number
            numbers[stream] = number + 1
            end = position + len(page)
    return Ogg(starts, whole, bool(flags & _LAST))


def _page(file: BinaryIO) -> Optional[bytes]:
    """Read the page of Ogg where the file stands; None: it is cut off or damaged."""
    header = file.read(27)
    sizes = file.read(sum(header[26:]))
    page = header + sizes + file.read(sum(sizes))
    if len(page) < 27 + sum(header[26:]) + sum(sizes):
        return None
    # Ogg's checksum is that of zlib, but takes the bits of a byte the other way round, and turns none at begin and end
    content = page[:22] + bytes(4) + page[26:]
    checksum = zlib.crc32(content.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page if int(f"{checksum:032b}"[::-1], 2) == struct.unpack("<I", page[22:26])[0] else None
