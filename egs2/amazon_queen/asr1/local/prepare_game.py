#!/usr/bin/env python3
"""Turn the recordings and dialogues of "Flight of the Amazon Queen" into Kaldi-style data directories.

The game is one file, queen.1c: a table of names, offsets and sizes, then the resources. These are read here, with all
numbers big-endian:

NAME.SB    a recording, MP3 at 11.025 kHz
NAME.DOG   a conversation: a tree of 96 bytes a level, then what Joe, the player, may say, then what the other says
NAME.CUT   a scene: what is said in it, one text for each of its objects

A text is a length byte and that many characters. `*XX` in it is a command to the actor, and parts it. Each part
is a recording of its own, with the part's number at the end of its name. Every size and offset is checked against
the bytes that are there.
"""

import argparse
import io
import re
import struct
import sys
from collections import defaultdict
from pathlib import Path

import soundfile
import soxr
from whisper_data import RATE, write_sets

from espnet_rand.kaldi import DataError

HEADER = 20  # bytes before a conversation or scene
COMMAND = re.compile(r"\*(?:XY\d\d\(\d+,\d+\)|..)")
NO_SPEECH = re.compile(r"[(<&#]")  # "(sigh)", "<sneeze>"
SPEECHLESS = {"APE", "APE2", "APE3", "DOG"}  # conversations with those who bark
SHARES = {"test": 0.25, "dev": 0.08}


class GameError(ValueError):
    """The file is not the game's, or damaged."""


class Resource:
    """A part of the game's file, read from its beginning or anywhere in it."""

    def __init__(self, data: bytes):
        self.data = data

    def unpack(self, code: str, at: int):
        """Read big-endian values at an offset."""
        code = ">" + code
        if not 0 <= at <= len(self.data) - struct.calcsize(code):
            raise GameError(f"offset {at} is outside of the {len(self.data)} bytes there")
        return struct.unpack_from(code, self.data, at)

    def text(self, at: int, align: int = 2):
        """Read a text, and find where the next begins."""
        (length,) = self.unpack("B", at)
        if not length:
            return "", at + 1
        (text,) = self.unpack(f"{length}s", at + 1)
        return text.decode("latin-1"), (at + length + align) & -align


def read_resources(data: bytes):
    """Read the resources of queen.1c: {name: Resource}."""
    file = Resource(data)
    magic, _, compression, count = file.unpack("4s8sBH", 0)
    if magic != b"QTBL" or compression != 1:
        raise GameError("it is not the talkie version with MP3 recordings")
    resources = {}
    for i in range(count):
        name, _, offset, size = file.unpack("12sBII", 15 + 21 * i)
        if offset + size > len(data):
            raise GameError(f"{name!r} ends behind the file's end")
        resources[name.split(b"\0")[0].decode("latin-1")] = Resource(data[offset : offset + size])
    return resources


def conversation(name, resource):
    """Yield (recordings' name without the part, who speaks, text) of a .DOG."""
    body = Resource(resource.data[HEADER:])
    levels, _, key, joe_count, other_count = body.unpack("5h", 0)
    other_at, _, again_at = body.unpack("3H", 22)
    joe_at = 32 + 96 * abs(levels)
    for at, count, who in ((joe_at, joe_count, "J"), (other_at, other_count, "P")):
        for _ in range(count):
            (number,) = body.unpack("H", at + 2)
            text, at = body.text(at + 4, align=4)
            yield f"{key:2d}{number:4x}{who}", who, text
    if body.unpack("H", joe_at + 2) == (0,):
        yield f"{key:2d}SSSSJ", "J", body.text(joe_at + 4)[0]
    for who in "PJ":
        text, again_at = body.text(again_at)
        yield f"{key:2d}XXXX{who}", who, text


def scene(name, resource):
    """Yield the same of a .CUT as `conversation` does; who speaks is not known."""
    body = Resource(resource.data[HEADER:])
    _, count, _, _, at = body.unpack("2h3H", 0)
    _, at = body.text(at)
    for number in range(1, abs(count) + 1):
        text, at = body.text(at)
        yield f"{name:_<5}{number:02d}", "", text


def read_lines(resources):
    """Yield (recording, speaker, text) of all that is said."""
    for file, resource in resources.items():
        name, _, kind = file.partition(".")
        if kind not in ("DOG", "CUT"):
            continue
        for prefix, who, text in (conversation if kind == "DOG" else scene)(name, resource):
            if who == "P" and name in SPEECHLESS:
                continue
            for part, said in enumerate(COMMAND.split(text), 1):
                recording = f"{prefix}{part:x}".replace(" ", "0").upper()
                if f"{recording}.SB" in resources:
                    yield recording, "joe" if who == "J" else name.lower(), said


def clean(text):
    """Write a text as Whisper does: no capitals for emphasis, no signs for pauses or trademarks. None: no speech."""
    if NO_SPEECH.search(text):
        return None
    text = re.sub(r"[A-Z]{2,}", lambda word: word[0].lower(), text.replace("^_", ""))
    text = " ".join(text.replace("...", " ").split())
    return text[:1].upper() + text[1:] if re.search("[A-Za-z]", text) else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("game", type=Path, help="queen.1c, or a folder that has it at any depth")
    parser.add_argument("data_dir", type=Path)
    args = parser.parse_args()
    path = next(iter(sorted(args.game.rglob("queen.1c"))), None) if args.game.is_dir() else args.game
    if path is None:
        sys.exit(f"{sys.argv[0]}: no queen.1c is below {args.game}. Unpack Debian's flight-of-the-amazon-queen there")
    try:
        resources = read_resources(path.read_bytes())
        lines = defaultdict(set)
        for recording, speaker, text in read_lines(resources):
            lines[recording].add((speaker, clean(text)))
    except GameError as e:
        sys.exit(f"{sys.argv[0]}: {path}: {e}")
    utterances = []
    for recording, said in sorted(lines.items()):
        (speaker, text), *others = said
        if others or text is None:
            continue
        audio, rate = soundfile.read(io.BytesIO(resources[f"{recording}.SB"].data), dtype="float32")
        utterances.append((f"{speaker}-{recording}", speaker, text, soxr.resample(audio, rate, RATE)))
    try:
        write_sets(args.data_dir, {"en": utterances}, SHARES)
    except DataError as e:
        sys.exit(f"{sys.argv[0]}: {path} has too few lines with a recording: {e}")


if __name__ == "__main__":
    main()
