"""Reads the dialogues and texts of Battle for Wesnoth from its .mo catalogues."""

import gettext
import io
import re
import struct
from pathlib import Path
from typing import Dict, Iterator

from pairs import Pair

from espnet_rand.kaldi import DataError

# <ref>dst='unit' text='an elf'</ref>: of what its help writes so, readers see the text
WRITTEN = re.compile(r"<(\w+)>[^<]*?text='((?:[^'\\]|\\.)*)'[^<]*</\1>")
TAG = re.compile(r"</?\w+(?:\s[^<>]*)?/?>")
# variables ($name|, %d, {MACRO}), and what is left of markup
UNREADABLE = re.compile(r"[$%{}<>\\|=]")


def plain(text: str) -> str:
    """Return a text without its markup."""
    return TAG.sub("", WRITTEN.sub(lambda written: re.sub(r"\\(.)", r"\1", written[2]), text))


def whole(content: bytes) -> bytes:
    """Return a catalogue whose texts are no longer than it is, as they are if all name the same place.

    Raises:
        ValueError: they are
        struct.error: its tables end beyond it
    """
    order = "<" if content[:4] == b"\xde\x12\x04\x95" else ">"
    count, *tables = struct.unpack_from(f"{order}3I", content, 8)
    lengths = (struct.unpack_from(f"{order}I", content, table + 8 * i)[0] for table in tables for i in range(count))
    if sum(lengths) > len(content):
        raise ValueError("its texts are longer than the file")
    return content


def messages(path: Path) -> Dict[str, str]:
    """Read the translations of a catalogue, by what they translate; of those with plurals, the singular.

    Raises:
        DataError: it is no catalogue
    """
    try:
        catalogue = gettext.GNUTranslations(io.BytesIO(whole(path.read_bytes())))._catalog
    except (OSError, ValueError, LookupError, struct.error) as e:
        raise DataError(f"{path}: no catalogue of gettext: {e}. Fix: unpack Debian's packages again") from None
    found = {}
    for key, translation in catalogue.items():
        message, form = key if isinstance(key, tuple) else (key, 0)
        if message and not form:
            # gettext's context ends in \4, Wesnoth's own in ^
            found[message.rpartition("\4")[2].rpartition("^")[2]] = translation
    return found


def read_game(folder: Path, target: str) -> Iterator[Pair]:
    """Yield the pairs of all catalogues of a language below a folder: a pair for each line that can be read as it is.

    Raises:
        DataError: there is no catalogue
    """
    catalogues = sorted(folder.rglob(f"{target}/LC_MESSAGES/wesnoth*.mo"))
    if not catalogues:
        raise DataError(
            f"{folder}: no {target}/LC_MESSAGES/wesnoth.mo is below it. "
            "Fix: unpack Debian's packages there, or leave the game out (run.sh --test_sets test)"
        )
    for path in catalogues:
        for number, (message, translation) in enumerate(sorted(messages(path).items())):
            lines = [[line for line in text.splitlines() if line.strip()] for text in (message, translation)]
            if len(lines[0]) != len(lines[1]):
                continue
            for line, texts in enumerate(zip(*lines)):
                source, said = map(plain, texts)
                if not UNREADABLE.search(source + said):
                    yield Pair(f"{path.stem}-{number:05d}-{line}", source, said)
