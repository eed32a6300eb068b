"""All the sound of a file: as libsndfile reads it, or by other means where libsndfile would end early or refuse.

libsndfile believes headers, and what they say of the length is wrong at times: of what was written to a pipe, is larger
than 4 GB, or was joined by `cat`. Of WAV the bytes that are there are read; the rest is decoded by PyAV into $TMPDIR.
"""

import io
import re
import struct
import tempfile
import zlib
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

import numpy as np
import soundfile

from espnet_rand.errors import UserError

# bytes of a sample of one channel
_WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_WIDTHS |= {"ULAW": 1, "ALAW": 1}
# by the format tag of WAV and the bytes of a sample
_SUBTYPES = {(1, 1): "PCM_U8", (1, 2): "PCM_16", (1, 3): "PCM_24", (1, 4): "PCM_32"}
_SUBTYPES |= {(3, 4): "FLOAT", (3, 8): "DOUBLE", (6, 1): "ALAW", (7, 1): "ULAW"}
_EXTENSIBLE = 0xFFFE
# what is written as the size of a WAV file before its length is known
_UNKNOWN = {0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF}
_HEADER = 44
# bytes that are looked at at a time
_BLOCK = 2**20
# bytes that do without an explanation: zeros after the sound, or what stands before it
_PADDING = 2**20
_OVERHEAD = 2**16
# seconds: what the lengths of a file may differ by without a note
_NEAR = 0.1
# seconds: time stamps that jump farther are not believed
_FAR = 600.0
# bytes with their bits the other way round
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# flags of the first and last page of a stream of Ogg
_FIRST, _LAST = 2, 4
# FLAC's STREAMINFO has so many bits for the length
_MOST_FRAMES = 2**36
# what PyAV may read; not playlists, which name other files and addresses to be read
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,flac,matroska,webm,mov,mp4,m4a,mp3,ogg,tta,w64,wav,wv"
# of these it guesses the length
_GUESSED = {"aac", "ac3", "amr", "mp3", "ogg"}

_SHORTER = "shorter than its header says"


class AudioError(UserError):
    """Why a recording cannot be read, in one line."""


def _difference(length: float, stated: Optional[float]) -> List[str]:
    """The note on a length that is not the header's, both in seconds; None: the header does not say it."""
    if stated is None or abs(length - stated) <= _NEAR:
        return []
    return [_SHORTER if length < stated else "longer than its header says"]


# WAV


class Wave(NamedTuple):
    """The sound of a WAV file, found by its bytes.

    Attributes:
        rate: in Hz
        channels: at least 1
        subtype: as soundfile calls it; None: not of single samples
        width: bytes of a frame
        speed: bytes of a second
        parts: where sound is, from and to so many bytes; several: recordings one after the other, joined by `cat`
        stated: bytes of the first as its header says; None: it does not know
        left: bytes after them that are of another rate or kind
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
        return sum((stop - start) // self.width for start, stop in self.parts)

    def open(self, path: str, owned: ExitStack) -> soundfile.SoundFile:
        parts = [(start, stop - (stop - start) % self.width) for start, stop in self.parts]
        return _raw(owned.enter_context(Parts(path, parts)), self.rate, self.channels, self.subtype, owned)

    def notes(self) -> List[str]:
        """What is to be said about it; where it is not of single samples, only what its header states is read."""
        start, stop = self.parts[0]
        stated = stop - start if self.stated is None else self.stated
        notes = _difference((stop - start) / self.speed, stated / self.speed)
        if notes and stop - start > stated and self.subtype is None:
            notes = [_left_out(stop - start - stated)]
        if len(self.parts) > 1:
            notes.append(f"{len(self.parts)} recordings in one file, one after the other")
        if self.left:
            notes.append(f"what follows, {self.left} bytes, is of another rate or kind, and left out")
        return notes


def find_wave(file: BinaryIO) -> Optional[Wave]:
    """Where the sound of a WAV file (RIFF or RF64) is; None: it is none, or has no sound."""
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
    return Wave(*first, parts, stated, left) if parts else None


def _kind(form: bytes) -> Optional[Tuple[int, int, Optional[str], int, int]]:
    """Of the chunk `fmt `: rate, channels, subtype, bytes of a frame and of a second; None: it makes no sense."""
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
    """The name and length in bytes of the chunk at a position, which the file then stands behind; None: none there."""
    file.seek(position)
    header = file.read(8)
    if len(header) < 8 or not all(32 <= byte < 127 for byte in header[:4]):
        return None
    return header[:4], struct.unpack("<I", header[4:])[0]


def _stop(file: BinaryIO, start: int, length: int, size: int) -> int:
    """Where sound ends that is said to have `length` bytes; beyond 4 GB what is said is too little by 4 GB or more.

    It is believed where what follows is no sound; otherwise sound goes on to the end.
    """
    for stop in range(start + length, size + 1, 2**32):
        if _is_no_sound(file, _next(file, stop, length), size, padded=length > 0):
            return stop
    return size


def _next(file: BinaryIO, end: int, length: int) -> int:
    """Where the next chunk begins: behind an odd length is a byte that does not count, which some leave out."""
    padded = end + length % 2
    return end if _chunk(file, padded) is None and _chunk(file, end) is not None else padded


def _is_no_sound(file: BinaryIO, position: int, size: int, padded: bool) -> bool:
    """Whether nothing, zeros (where `padded`), a tag, another WAV file or chunks to the end follow."""
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


class Parts(io.RawIOBase):
    """Parts of a file, as one.

    Args:
        path: of the file
        parts: each from and to so many bytes
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


def _raw(
    file: Union[BinaryIO, int], rate: int, channels: int, subtype: str, owned: ExitStack, endian: str = "LITTLE"
) -> soundfile.SoundFile:
    """A file of samples and nothing else."""
    options = {"format": "RAW", "subtype": subtype, "endian": endian, "closefd": False}
    return owned.enter_context(soundfile.SoundFile(file, "r", rate, channels, **options))


# Ogg


class Ogg(NamedTuple):
    """What the pages of an Ogg file tell.

    Attributes:
        starts: where streams begin that follow each other, in bytes
        whole: no page is damaged, or missing before the last
        ended: the last page is there
    """

    starts: List[int]
    whole: bool
    ended: bool

    def notes(self, filled: bool = False) -> List[str]:
        """What is to be said about it; `filled`: silence is in the place of what is missing."""
        lost = [] if self.whole or filled else ["pages of it are damaged or missing: what follows them may be early"]
        return lost if self.ended else [*lost, "cut off, or never finished: it has no end mark"]


def find_ogg(path: str) -> Optional[Ogg]:
    """What the pages of an Ogg file tell; None: it is no such file. All of it is read, and nothing decoded."""
    starts: List[int] = []
    numbers: Dict[bytes, int] = {}  # of the next page, by the stream
    whole, end, flags = True, 0, 0
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return None
        for position in _find(path, rb"OggS\x00[\x00-\x07]", 6):
            if position < end:  # by chance within a page
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
    """The page of Ogg where the file stands; None: it is cut off or damaged."""
    header = file.read(27)
    sizes = file.read(sum(header[26:]))
    page = header + sizes + file.read(sum(sizes))
    if len(page) < 27 + sum(header[26:]) + sum(sizes):
        return None
    # Ogg's checksum is that of zlib, but takes the bits of a byte the other way round, and turns none at begin and end
    content = page[:22] + bytes(4) + page[26:]
    checksum = zlib.crc32(content.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page if int(f"{checksum:032b}"[::-1], 2) == struct.unpack("<I", page[22:26])[0] else None


def _find(path: str, pattern: bytes, length: int) -> Iterator[int]:
    """Where a file matches a pattern that is always of so many bytes."""
    with open(path, "rb") as file:
        text, start = b"", 0
        while block := file.read(_BLOCK):
            rest = text[max(0, len(text) - length + 1) :]
            start += len(text) - len(rest)
            text = rest + block
            for match in re.finditer(pattern, text):
                yield start + match.start()


def open_sound(path: str, name: str, owned: ExitStack) -> Tuple[soundfile.SoundFile, List[str]]:
    """A file with all the sound of `path`, and what is to be said about it.

    Args:
        path: of an existing file
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
        decoded = _decode(path, name, owned, f"{name}: not to be read: {str(e).splitlines()[0].rstrip('.')}")
        if decoded is None:
            raise
        ogg = find_ogg(path)
        pages = [] if ogg is None else ogg.notes(decoded.filled)
        return decoded.file, [*([_SHORTER] if decoded.shorter else []), *pages, *decoded.notes]
    if wave is not None and wave.subtype is not None:
        return (file if file.frames == wave.frames else wave.open(path, owned)), wave.notes()
    return _checked(file, path, name, owned, wave)


def _checked(
    file: soundfile.SoundFile, path: str, name: str, owned: ExitStack, wave: Optional[Wave]
) -> Tuple[soundfile.SoundFile, List[str]]:
    """The file as libsndfile reads it, if that is all, or else as PyAV does; and what is to be said about it."""
    ogg = find_ogg(path)
    header = _header_notes(file, path) if wave is None else wave.notes()
    try:
        right, unchecked = _is_right(file, path, ogg), []
    except ImportError:
        right, unchecked = True, ["its length is what its header says (to have it checked: pip install av)"]
    decoded = None if right else _decode(path, name, owned, f"{name}: libsndfile does not read it to its end")
    seconds = decoded.file.frames / decoded.file.samplerate if decoded is not None else 0.0
    # PyAV may know less than libsndfile, or believe the same header
    if decoded is None or (_left_over(file, path) > _OVERHEAD and seconds <= file.frames / file.samplerate):
        return file, [*header, *([] if ogg is None else ogg.notes()), *unchecked]
    if wave is None:
        header = _difference(seconds, _stated_seconds(file, path))
    pages = [] if ogg is None else ogg.notes(decoded.filled)
    return decoded.file, [*header, *pages, *decoded.notes]


# what libsndfile says


def _header_notes(file: soundfile.SoundFile, path: str) -> List[str]:
    """What is to be said about a file that libsndfile reads as it is."""
    # libsndfile says so of AIFF and others; not refused: what writes to a pipe states the largest size
    sizes = re.findall(r"(\d+) \(should be (\d+)\)", file.extra_info)
    notes = [_SHORTER] if any(int(header) > int(found) for header, found in sizes) else []
    left = _left_over(file, path)
    return [*notes, _left_out(left)] if left > _OVERHEAD else notes


def _left_out(count: int) -> str:
    return f"{count} bytes of it are left out: by its header they are no sound"


def _left_over(file: soundfile.SoundFile, path: str) -> int:
    """The bytes of the file that are not of the samples that libsndfile reads; 0: unknown, for they are compressed."""
    width = None if file.format == "FLAC" else _WIDTHS.get(file.subtype)
    return 0 if width is None else _size(path) - file.frames * file.channels * width


def _size(path: str) -> int:
    with open(path, "rb") as file:
        return file.seek(0, io.SEEK_END)


def _is_right(file: soundfile.SoundFile, path: str, ogg: Optional[Ogg]) -> bool:
    """Whether libsndfile reads all of the file.

    Raises:
        ImportError: PyAV is not installed, and what libsndfile says makes sense
    """
    if not _reads_its_end(file) or (ogg is not None and (len(ogg.starts) > 1 or not ogg.whole)):
        return False
    if file.format not in ("FLAC", "MP3", "OGG"):
        return _left_over(file, path) <= _OVERHEAD
    found = _count(path)
    if found is None:
        return False
    seconds, delay = found
    more = round(seconds * file.samplerate) - file.frames
    if file.format == "OGG":  # only a page's last packet has a length that is known
        return abs(more) <= 2 * _NEAR * file.samplerate
    # of MP3 a header (LAME's) may say how much of the first and last packets, of 1152 frames, is no sound
    return more == 0 or (file.format == "MP3" and delay and 0 < more <= 4 * 1152)


def _reads_its_end(file: soundfile.SoundFile) -> bool:
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except (soundfile.LibsndfileError, ValueError, OSError):
        return False


def _stated_seconds(file: soundfile.SoundFile, path: str) -> Optional[float]:
    """The length that the header says; None: it says none, and what libsndfile says is an estimate."""
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


# PyAV


def _av() -> ModuleType:
    import av

    return av


def _failures() -> Tuple[Type[Exception], ...]:
    """What PyAV raises of files; ValueError: of a codec that it does not know."""
    return _av().FFmpegError, ValueError


class Decoded(NamedTuple):
    """What PyAV has decoded.

    Attributes:
        file: with all of it
        notes: what is to be said about it
        shorter: it is shorter than PyAV reads in its header
        filled: silence is in the place of what is missing
    """

    file: soundfile.SoundFile
    notes: List[str]
    shorter: bool
    filled: bool


@contextmanager
def _container(file: Any) -> Iterator[Any]:
    """What PyAV makes of a file, with sound in it; raises one of `_failures()` where it is nothing of the kind."""
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    with _av().open(file, options=options) as container:
        if not container.streams.audio:
            raise _av().FFmpegError(0, "no sound")
        yield container


def _count(path: str) -> Optional[Tuple[float, bool]]:
    """The seconds of sound in the packets of a file, and whether the first of it is cut away; None: not to be told.

    Nothing is decoded.
    """
    try:
        with open(path, "rb") as file, _container(file) as container:
            stream = container.streams.audio[0]
            ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            return float(ticks * stream.time_base), (stream.start_time or 0) > 0
    except _failures():
        return None


def _decode(path: str, name: str, owned: ExitStack, problem: str) -> Optional[Decoded]:
    """All sound of a file, decoded into $TMPDIR as float32; None: PyAV finds none.

    Raises:
        AudioError: $TMPDIR is full; or PyAV is not installed, which `problem` wants
    """
    try:
        failures = _failures()
    except ImportError:
        raise AudioError(f"{problem}. Mend: pip install av") from None
    file = owned.enter_context(_temporary())
    decoder = _Decoder(file, name)
    for part in _streams(path):
        try:
            with Parts(path, [part]) as content:
                decoder.add(content)
        except failures as e:
            decoder.broken = decoder.broken or getattr(e, "strerror", None) or str(e)
    if not decoder.frames or decoder.lost > decoder.frames / decoder.rate:
        return None
    file.seek(0)
    endian = "LITTLE" if np.little_endian else "BIG"
    sound = _raw(file.fileno(), decoder.rate, decoder.channels, "FLOAT", owned, endian)
    # a film may go on after its sound
    shorter = decoder.frames / decoder.rate < decoder.stated - 1
    return Decoded(sound, decoder.notes(_size(path)), shorter, decoder.missing > 0)


def _temporary() -> BinaryIO:
    """A file in $TMPDIR without a name: it is gone with the process, however that ends."""
    return tempfile.TemporaryFile(prefix="espnet_rand.", buffering=0)


def _streams(path: str) -> List[Tuple[int, int]]:
    """Where the streams begin and end, in bytes, that follow each other in a file of Ogg or FLAC."""
    ogg = find_ogg(path)
    starts = [] if ogg is None else ogg.starts
    with open(path, "rb") as file:
        if file.read(4) == b"fLaC":
            starts = [*_find(path, rb"fLaC[\x00\x80]\x00\x00\x22", 8)]
    starts = [0, *starts[1:]]
    return list(zip(starts, [*starts[1:], _size(path)]))


class _Decoder:
    """Writes what PyAV decodes, float32, (frames, channels), at the rate and with the channels of what comes first.

    Where time stamps tell that something is missing, silence takes its place: what follows stays at its time.

    Attributes:
        frames: that were written
        missing: seconds that silence was written for
        lost: seconds that could not be decoded
        read: bytes that were sound, or anything else that is known to be none
        broken: why it could not be read to its end
        stated: seconds that the header says; 0: none
        tracks: of sound, side by side
    """

    def __init__(self, file: BinaryIO, name: str):
        self._file, self._name = file, name
        self.rate = self.channels = self.frames = self.read = 0
        self.missing = self.lost = self.stated = 0.0
        self.broken = ""
        self.tracks = 1

    def add(self, content: BinaryIO) -> None:
        """Decode all of a file.

        Raises:
            av.FFmpegError, ValueError: PyAV cannot read it, or not to its end
            AudioError: $TMPDIR is full
        """
        self._format: Any = None
        self._resampler: Any = None
        with _container(content) as container:
            stream = container.streams.audio[0]
            # of MP3 the first time stamp is what is cut away from the begin
            self._origin = None if container.format.name == "mp3" else self.frames
            self.tracks = max(self.tracks, len(container.streams.audio))
            if container.format.name not in _GUESSED:
                whole = (container.duration or 0) / _av().time_base
                self.stated += float(stream.duration * stream.time_base) if stream.duration else whole
            for packet in container.demux():
                self.read += packet.size
                if packet.stream.index != stream.index:
                    continue
                try:
                    frames = packet.decode()
                except _av().FFmpegError:
                    self.lost += float((packet.duration or 0) * packet.time_base)
                    continue
                for frame in frames:
                    self._add(frame)
        if self._resampler is not None:
            self._write(self._resampler.resample(None))

    def _add(self, frame: Any) -> None:
        if not self.rate:
            self._layout = frame.layout
            self.rate, self.channels = frame.sample_rate, len(frame.layout.channels)
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._format:
            if self._resampler is not None:
                self._write(self._resampler.resample(None))
            self._format, self._resampler = form, _av().AudioResampler("flt", self._layout, self.rate)
        if frame.pts is not None:
            self._fill(round(frame.pts * frame.time_base * self.rate))
        frame.pts = None
        self._write(self._resampler.resample(frame))

    def _fill(self, at: int) -> None:
        """Write silence up to the time stamp `at`, in samples, if it is later than it should be."""
        gap = 0 if self._origin is None else self._origin + at - self.frames
        if self._origin is None or not -_NEAR * self.rate <= gap <= _FAR * self.rate:
            self._origin = self.frames - at
        elif gap > _NEAR * self.rate:
            self.missing += gap / self.rate
            for first in range(0, gap, self.rate):
                self._put(np.zeros((min(self.rate, gap - first), self.channels), np.float32))

    def _write(self, frames: Sequence[Any]) -> None:
        for frame in frames:
            self._put(frame.to_ndarray().reshape(-1, self.channels))

    def _put(self, samples: np.ndarray) -> None:
        left = memoryview(samples.tobytes())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as e:
            raise AudioError(
                f"{self._name}: to be decoded into {tempfile.gettempdir()}: {e.strerror}. "
                "Mend: set TMPDIR to a larger disk"
            ) from None
        self.frames += len(samples)

    def notes(self, size: int) -> List[str]:
        """What is to be said about a file of so many bytes."""
        notes = []
        if self.missing:
            notes.append(f"{self.missing:.1f} s of it are damaged or missing: silence is in their place")
        if self.lost > _NEAR:
            notes.append(f"{self.lost:.1f} s of it could not be decoded, and are left out")
        if self.broken:
            notes.append(f"not all of it could be decoded: {self.broken}")
        if self.tracks > 1:
            notes.append(f"{self.tracks} sound tracks: the first is heard")
        if size - self.read > size / 4 + _OVERHEAD:
            notes.append(f"{size - self.read} of its {size} bytes are left out: no sound is known to be there")
        return notes
