"""Measures sound by PyAV (FFmpeg), and decodes all of it into $TMPDIR."""

import tempfile
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, BinaryIO, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type

import numpy as np
import soundfile

from espnet_rand.longform.ogg import find_ogg
from espnet_rand.longform.sound import NEAR, OVERHEAD, AudioError, Parts, find, open_raw, size_of

# seconds: time stamps that jump farther are not believed
_FAR = 600.0
# the formats that PyAV may read; not playlists, which name other files and addresses to be read
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,flac,matroska,webm,mov,mp4,m4a,mp3,ogg,tta,w64,wav,wv"
# the formats whose length it guesses
_GUESSED = {"aac", "ac3", "amr", "mp3", "ogg"}


def _av() -> ModuleType:
    """Import PyAV, where it is used: it need not be installed."""
    import av

    return av


def _failures() -> Tuple[Type[Exception], ...]:
    """The errors that PyAV raises where a file is off; ValueError: it does not know the codec."""
    return _av().FFmpegError, ValueError


class Decoded(NamedTuple):
    """The sound that PyAV has decoded.

    Attributes:
        file: a file with all of it
        notes: remarks on it
        shorter: it is shorter than PyAV reads in its header
        filled: silence is in the place of what is missing
    """

    file: soundfile.SoundFile
    notes: List[str]
    shorter: bool
    filled: bool


@contextmanager
def _container(file: Any) -> Iterator[Any]:
    """Let PyAV open a file with sound in it. Raises one of `_failures()`: PyAV cannot, or there is no sound."""
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    with _av().open(file, options=options) as container:
        if not container.streams.audio:
            raise _av().FFmpegError(0, "no sound")
        yield container


def count(path: str) -> Optional[Tuple[float, bool]]:
    """Count the seconds of sound in the packets of a file, without decoding; None: PyAV cannot read it.

    Returns:
        the seconds, and whether the beginning is cut away
    """
    try:
        with open(path, "rb") as file, _container(file) as container:
            stream = container.streams.audio[0]
            ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            return float(ticks * stream.time_base), (stream.start_time or 0) > 0
    except _failures():
        return None


def decode(path: str, name: str, owned: ExitStack, problem: str) -> Optional[Decoded]:
    """Decode all sound of a file into $TMPDIR, as float32; None: PyAV finds none.

    Raises:
        AudioError: $TMPDIR is full; or PyAV is not installed, which `problem` wants
    """
    try:
        failures = _failures()
    except ImportError:
        raise AudioError(f"{problem}. Fix: pip install av") from None
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
    sound = open_raw(file.fileno(), decoder.rate, decoder.channels, "FLOAT", owned, endian)
    # a film may go on after its sound
    shorter = decoder.frames / decoder.rate < decoder.stated - 1
    return Decoded(sound, decoder.notes(size_of(path)), shorter, decoder.missing > 0)


def _temporary() -> BinaryIO:
    """Make a file in $TMPDIR without a name: it is gone with the process, however that ends."""
    return tempfile.TemporaryFile(prefix="espnet_rand.", buffering=0)


def _streams(path: str) -> List[Tuple[int, int]]:
    """Find the streams that follow each other in a file of Ogg or FLAC: where each begins and ends, in bytes."""
    ogg = find_ogg(path)
    starts = [] if ogg is None else ogg.starts
    with open(path, "rb") as file:
        if file.read(4) == b"fLaC":
            starts = [*find(path, rb"fLaC[\x00\x80]\x00\x00\x22", 8)]
    starts = [0, *starts[1:]]
    return list(zip(starts, [*starts[1:], size_of(path)]))


class _Decoder:
    """Writes what PyAV decodes, float32, (frames, channels), with the rate and the channels of the first frame.

    Where time stamps tell that something is missing, silence takes its place: the rest stays at its time.

    Attributes:
        frames: how many frames were written
        missing: seconds that silence was written for
        lost: seconds that could not be decoded
        read: bytes that were sound, or anything else that is known to be none
        broken: why it could not be read to its end
        stated: seconds that the header says; 0: none
        tracks: how many sound tracks there are, side by side
    """

    def __init__(self, file: BinaryIO, name: str):
        self._file, self._name = file, name
        self.rate = self.channels = self.frames = self.read = 0
        self.missing = self.lost = self.stated = 0.0
        self.broken = ""
        self.tracks = 1

    def add(self, content: Parts) -> None:
        """Decode all of a file.

        Raises:
            av.FFmpegError, ValueError: PyAV cannot read it, or not to its end
            AudioError: $TMPDIR is full
        """
        self._format: Any = None
        self._resampler: Any = None
        with _container(content) as container:
            stream = container.streams.audio[0]
            # MP3: the first time stamp is what is cut away from the beginning
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
        """Write a decoded frame, at the rate and with the channels of the first."""
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
        if self._origin is None or not -NEAR * self.rate <= gap <= _FAR * self.rate:
            self._origin = self.frames - at
        elif gap > NEAR * self.rate:
            self.missing += gap / self.rate
            for first in range(0, gap, self.rate):
                self._put(np.zeros((min(self.rate, gap - first), self.channels), np.float32))

    def _write(self, frames: Sequence[Any]) -> None:
        """Write frames of PyAV's."""
        for frame in frames:
            self._put(frame.to_ndarray().reshape(-1, self.channels))

    def _put(self, samples: np.ndarray) -> None:
        """Write samples, float32, (frames, channels)."""
        left = memoryview(samples.tobytes())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as e:
            raise AudioError(
                f"{self._name}: to be decoded into {tempfile.gettempdir()}: {e.strerror}. "
                "Fix: set TMPDIR to a larger disk"
            ) from None
        self.frames += len(samples)

    def notes(self, size: int) -> List[str]:
        """The notes on a file of so many bytes."""
        notes = []
        if self.missing:
            notes.append(f"{self.missing:.1f} s of it are damaged or missing: silence is in their place")
        if self.lost > NEAR:
            notes.append(f"{self.lost:.1f} s of it could not be decoded, and are left out")
        if self.broken:
            notes.append(f"not all of it could be decoded: {self.broken}")
        if self.tracks > 1:
            notes.append(f"{self.tracks} sound tracks: the first is heard")
        if size - self.read > size / 4 + OVERHEAD:
            notes.append(f"{size - self.read} of its {size} bytes are left out: no sound is known to be there")
        return notes
