"""Opens all the sound of a file: by libsndfile, or by other means where libsndfile would end early or refuse.

libsndfile believes headers, and headers give a wrong length at times: if the file was written to a pipe, is larger than
4 GB, or was joined by `cat`. WAV is read by the bytes that are there (wav.py); other files are decoded by PyAV into
$TMPDIR (pyav.py).
"""

import re
from contextlib import ExitStack
from typing import List, Optional, Tuple

import soundfile

from espnet_rand.longform.ogg import Ogg, find_ogg
from espnet_rand.longform.pyav import count, decode
from espnet_rand.longform.sound import NEAR, OVERHEAD, SHORTER, difference, left_out, size_of
from espnet_rand.longform.wav import Wave, find_wave

# bytes of a sample of one channel
_WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_WIDTHS |= {"ULAW": 1, "ALAW": 1}
# FLAC's STREAMINFO has 36 bits for the length
_MOST_FRAMES = 2**36


def open_sound(path: str, name: str, owned: ExitStack) -> Tuple[soundfile.SoundFile, List[str]]:
    """Open a file with all the sound of `path`; return it, and notes on it.

    Args:
        path: an existing file
        name: what messages call it
        owned: closes what is opened here

    Raises:
        AudioError: it cannot be read, or only by PyAV, which is not installed
        soundfile.LibsndfileError, OSError, TypeError: it cannot be read
    """
    with open(path, "rb") as content:
        wave = find_wave(content)
    try:
        file = owned.enter_context(soundfile.SoundFile(path))
    except soundfile.LibsndfileError as e:
        if wave is not None and wave.subtype is not None:
            return wave.open(path, owned), wave.notes()
        decoded = decode(path, name, owned, f"{name}: not to be read: {str(e).splitlines()[0].rstrip('.')}")
        if decoded is None:
            raise
        ogg = find_ogg(path)
        pages = [] if ogg is None else ogg.notes(decoded.filled)
        return decoded.file, [*([SHORTER] if decoded.shorter else []), *pages, *decoded.notes]
    if wave is not None and wave.subtype is not None:
        return (file if file.frames == wave.frames else wave.open(path, owned)), wave.notes()
    return _checked(file, path, name, owned, wave)


def _checked(
    file: soundfile.SoundFile, path: str, name: str, owned: ExitStack, wave: Optional[Wave]
) -> Tuple[soundfile.SoundFile, List[str]]:
    """Take the file as libsndfile reads it, if that is all of it, else as PyAV does; return it, and notes on it."""
    ogg = find_ogg(path)
    header = _header_notes(file, path) if wave is None else wave.notes()
    try:
        right, unchecked = _is_right(file, path, ogg), []
    except ImportError:
        right, unchecked = True, ["its length is what its header says (to have it checked: pip install av)"]
    decoded = None if right else decode(path, name, owned, f"{name}: libsndfile does not read it to its end")
    seconds = decoded.file.frames / decoded.file.samplerate if decoded is not None else 0.0
    # PyAV may know less than libsndfile, or believe the same header
    if decoded is None or (_left_over(file, path) > OVERHEAD and seconds <= file.frames / file.samplerate):
        return file, [*header, *([] if ogg is None else ogg.notes()), *unchecked]
    if wave is None:
        header = difference(seconds, _stated_seconds(file, path))
    pages = [] if ogg is None else ogg.notes(decoded.filled)
    return decoded.file, [*header, *pages, *decoded.notes]


def _header_notes(file: soundfile.SoundFile, path: str) -> List[str]:
    """The notes on a file that libsndfile reads as it is."""
    # libsndfile writes this for AIFF and others; no reason to refuse: a writer to a pipe states the largest size
    sizes = re.findall(r"(\d+) \(should be (\d+)\)", file.extra_info)
    notes = [SHORTER] if any(int(header) > int(found) for header, found in sizes) else []
    left = _left_over(file, path)
    return [*notes, left_out(left)] if left > OVERHEAD else notes


def _left_over(file: soundfile.SoundFile, path: str) -> int:
    """Count the bytes of a file beside the samples that libsndfile reads; 0: not known, for they are compressed."""
    width = None if file.format == "FLAC" else _WIDTHS.get(file.subtype)
    return 0 if width is None else size_of(path) - file.frames * file.channels * width


def _is_right(file: soundfile.SoundFile, path: str, ogg: Optional[Ogg]) -> bool:
    """Whether libsndfile reads all of the file.

    Raises:
        ImportError: PyAV is not installed, and the length that libsndfile gives makes sense
    """
    if not _reads_its_end(file) or (ogg is not None and (len(ogg.starts) > 1 or not ogg.whole)):
        return False
    if file.format not in ("FLAC", "MP3", "OGG"):
        return _left_over(file, path) <= OVERHEAD
    found = count(path)
    if found is None:
        return False
    seconds, delay = found
    more = round(seconds * file.samplerate) - file.frames
    if file.format == "OGG":  # only a page's last packet has a length that is known
        return abs(more) <= 2 * NEAR * file.samplerate
    # MP3: a header (LAME's) may say how much of the first and last packets, of 1152 frames, is no sound
    return more == 0 or (file.format == "MP3" and delay and 0 < more <= 4 * 1152)


def _reads_its_end(file: soundfile.SoundFile) -> bool:
    """Whether libsndfile reads the last frame."""
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except (soundfile.LibsndfileError, ValueError, OSError):
        return False


def _stated_seconds(file: soundfile.SoundFile, path: str) -> Optional[float]:
    """The length in seconds that the header says; None: it says none, and libsndfile estimates it."""
    if file.format == "OGG" or not 0 < file.frames < _MOST_FRAMES:
        return None
    if file.format == "MP3" or file.subtype == "MPEG_LAYER_III":
        with open(path, "rb") as content:
            tag = content.read(10)
            if tag.startswith(b"ID3"):  # its size has 7 bits in a byte
                content.seek(10 + sum(byte << 7 * (9 - i) for i, byte in enumerate(tag) if i > 5))
            if not re.search(rb"Xing|Info|VBRI", tag + content.read(4096)):
                return None
    return file.frames / file.samplerate
