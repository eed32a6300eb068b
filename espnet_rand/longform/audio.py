"""Reads recordings from disk, a stretch at a time."""

import functools
import math
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional, Union

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from espnet_rand.atomic import fingerprint
from espnet_rand.longform.files import open_sound
from espnet_rand.longform.sound import AudioError

# a filter of torchaudio.functional.resample has so many values at most; odd rates such as 44101 Hz want gigabytes
_LARGEST_FILTER = 4_000_000
# how far a filter reaches to each side, in periods of the lower rate; torchaudio's default is 6
_REACH = 8
# a header that says more says nothing
_MOST_FRAMES = 2**36
# frames that are looked at at a time
_BLOCK = 2**20
# powers of two: floats that exceed the first in many places are no sound of full scale 1, however hot; those that
# exceed the second are noted. Recorders of 32-bit floats exceed 1 by ten times
_SCALED, _HOT = 5, 1
# seconds of samples beyond these that are taken for clicks
_CLICKS = 0.1
# channels cancel each other where their mean has less than this share of the power that the loudest alone gives it
_CANCELLED = 0.25
# nothing above half a step of 16 bits
_SILENCE = 2.0**-16


class CommandError(AudioError):
    """A recording is a command, where none may be run."""


class Recording:
    """A recording of one channel at the rate that is asked for.

    Several channels are mixed, another rate is converted stretch by stretch. Whatever stretch `read` is asked for, its
    samples are those of the whole recording converted.

    Args:
        source: a file that libsndfile or PyAV reads, or samples at `rate`, (samples,), within -1 and 1
        rate: the rate of the samples that `read` returns, in Hz; default: the file's own
        name: what messages call it; default: the file's

    Attributes:
        length: samples at `rate`

    Raises:
        AudioError: it cannot be read, is empty, ends before its end, or has a rate that cannot be converted
    """

    def __init__(self, source: Union[str, Path, np.ndarray, torch.Tensor], rate: Optional[int] = None, name: str = ""):
        self.rate = rate
        self._notes: List[str] = []
        self._file: Optional[soundfile.SoundFile] = None
        self._owned = ExitStack()
        self._version: Dict[str, Any] = {}
        if isinstance(source, (np.ndarray, torch.Tensor)):
            self.name = name or "samples"
            samples = np.asarray(source)
            if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
                raise AudioError(
                    f"samples: one channel of floats is wanted, (samples,); it is {samples.dtype} {samples.shape}"
                )
            self._samples = np.array(samples, np.float32, order="C")
            self._version = {"crc32": zlib.crc32(self._samples)}
            self._set(rate, len(self._samples), 1)
            self._scale = self._find_scale()
        else:
            self.name = name or os.path.abspath(source)
            self._open(str(source))

    @property
    def seconds(self) -> float:
        return self.length / self.rate

    @property
    def notes(self) -> List[str]:
        """Say what was done to the recording, and what its file lacks. Channels are read to their end for this."""
        cancelled = self._cancelled_seconds()
        if not cancelled:
            return [*self._notes]
        return [
            *self._notes,
            f"its channels cancel each other in {cancelled} of {len(self._mixed)} s: one of them is heard there",
        ]

    def identity(self) -> Dict[str, Any]:
        """Describe it, so as to tell whether it is the same in another run: by its file's fingerprint, else its sound.

        Raises:
            AudioError: the sound of a command or an archive is damaged
        """
        if not self._version:  # not by the bytes: libsndfile notes the time in a WAV of floats
            checksum = 0
            for first in range(0, self._frames, _BLOCK):
                checksum = zlib.crc32(self._read(first, min(first + _BLOCK, self._frames)), checksum)
            self._version = {"crc32": checksum}
        return {"name": self.name, "length": self.length, **self._version}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the samples from `start` to `stop` (in samples at `rate`; within the recording), float32.

        Raises:
            AudioError: the file is damaged there, or has values that are no numbers
            ValueError: they are not within the recording, or end before they begin
        """
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"{self.name}: has {self.length} samples, and none from {start} to {stop}")
        down, up = self._down, self._up
        margin = math.ceil(_REACH * max(1.0, down / up) / down) + 1 if down != up else 0
        first = max(0, start // up - margin)
        last = min(self._frames, (-(-stop // up) + margin) * down)
        samples = self._read(first * down, last)
        if not np.isfinite(samples).all():
            raise AudioError(f"{self.name}: values that are no numbers after {start / self.rate:.1f} s")
        if down != up:
            samples = resample(torch.from_numpy(samples), down, up).numpy()
        return samples[start - first * up : stop - first * up]

    def close(self) -> None:
        """Close the file; nothing can be read from then on."""
        self._owned.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _open(self, path: str) -> None:
        """Open a file; close it again where it cannot be used."""
        try:
            if not os.path.isfile(path):
                raise AudioError(f"{self.name}: there is no such file")
            if self.name == os.path.abspath(path):
                self._version = fingerprint(path)
            self._file, notes = open_sound(path, self.name, self._owned)
            self._set(self._file.samplerate, self._file.frames, self._file.channels)
            self._read_frames(self._frames - 1, self._frames)
            self._notes += notes
            if self._channels > 1:
                self._notes.append(f"{self._channels} channels, mixed into one")
            if self._file.subtype in ("FLOAT", "DOUBLE"):
                self._scale = self._find_scale()
        except (soundfile.LibsndfileError, OSError, TypeError) as e:  # TypeError: of .raw files, which have no header
            self.close()
            raise AudioError(f"{self.name}: not to be read: {str(e).splitlines()[0]}") from None
        except Exception:
            self.close()
            raise

    def _set(self, rate: int, frames: int, channels: int) -> None:
        """Set the length at both rates. `_down` frames of the source make `_up` samples."""
        if frames == 0:
            raise AudioError(f"{self.name}: it is empty")
        self.rate = self.rate or rate
        divisor = math.gcd(rate, self.rate)
        self._frames, self._down, self._up = frames, rate // divisor, self.rate // divisor
        self._channels, self._scale = channels, 1.0
        self._second = rate
        # one entry a second: 1 was mixed, 2 is one channel, 0 was not read yet
        self._mixed = bytearray(-(-frames // rate))
        self.length = -(-frames * self._up // self._down)
        if rate == self.rate:
            return
        if self._down * self._up > _LARGEST_FILTER:
            raise AudioError(
                f"{self.name}: {rate} Hz and the model's {self.rate} Hz have too little in common to be converted "
                "here. Fix: convert it with sox or ffmpeg"
            )
        self._notes.append(f"converted from {rate} to {self.rate} Hz")

    def _find_scale(self) -> float:
        """Find the number to divide floats by: 1, or the full scale of integers of 16, 24 or 32 bits.

        It looks at all, so that every stretch is divided by the same number. A few may be anything.
        """
        exponents = np.zeros(256, np.int64)
        for first in range(0, self._frames, _BLOCK):
            frames = self._read_frames(first, min(first + _BLOCK, self._frames))
            loud = frames[np.abs(frames) >= 2.0**_HOT]
            exponents += np.bincount(loud.view(np.int32) >> 23 & 255, minlength=256)  # 8 bits of a float32
        clicks = _CLICKS * self._second * self._channels

        def goes_beyond(power: int) -> bool:
            return bool(exponents[127 + power : 255].sum() > clicks)  # 255: no number

        if not goes_beyond(_SCALED):
            if goes_beyond(_HOT):
                self._notes.append("floats beyond 2, where 1 is full scale: left as they are")
            return 1.0
        for bits in (16, 24, 32):
            if not goes_beyond(bits):  # twice the full scale, for what converting adds
                self._notes.append(f"floats of the scale of {bits}-bit integers: divided by {2 ** (bits - 1)}")
                return 2.0 ** (bits - 1)
        raise AudioError(f"{self.name}: floats beyond any scale that is known. Fix: scale them to within -1 and 1")

    def _read(self, first: int, last: int) -> np.ndarray:
        """Read frames of the source in one channel, which are the same whatever stretch they are read in."""
        if self._channels == 1:
            return np.ascontiguousarray(self._read_frames(first, last)[:, 0])
        begin = first // self._second
        frames = self._read_frames(begin * self._second, min(-(-last // self._second) * self._second, self._frames))
        seconds = range(0, len(frames), self._second)
        mixed = [self._mix(frames[at : at + self._second], begin + n) for n, at in enumerate(seconds)]
        return np.concatenate(mixed)[first - begin * self._second :][: last - first]

    def _mix(self, frames: np.ndarray, second: int) -> np.ndarray:
        """Take the mean of the channels; where they cancel each other, the first of about the loudest ones."""
        with np.errstate(over="ignore", invalid="ignore"):
            mean = frames.mean(axis=1)
            powers = np.square(frames).mean(axis=0)
            power = np.square(mean).mean() * self._channels**2
            cancelled = powers.max() > _SILENCE**2 and power < _CANCELLED * powers.max()
        self._mixed[second] = 1 + cancelled
        return frames[:, np.argmax(powers > powers.max() / 4)] if cancelled else mean

    def _cancelled_seconds(self) -> int:
        """Count the seconds in which channels cancel each other."""
        if self._channels == 1:
            return 0
        for second, seen in enumerate(self._mixed):
            if not seen and not self._file.closed:
                self._read(second * self._second, min((second + 1) * self._second, self._frames))
        return self._mixed.count(2)

    def _read_frames(self, first: int, last: int) -> np.ndarray:
        """Read frames of the source, float32, (frames, channels)."""
        if self._file is None:
            samples = self._samples[first:last, None]
            return samples if self._scale == 1 else samples / np.float32(self._scale)
        try:
            self._file.seek(first)
            samples = self._file.read(last - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as e:
            raise AudioError(f"{self.name}: damaged at {first / self._second:.1f} s: {e}") from None
        if len(samples) < last - first:
            raise AudioError(
                f"{self.name}: it ends at {(first + len(samples)) / self._second:.1f} s; its header says "
                f"{self._frames / self._second:.1f} s"
            )
        return samples if self._scale == 1 else samples / np.float32(self._scale)


def seconds_by_header(entry: str) -> Optional[float]:
    """The length of an entry of wav.scp in seconds, as libsndfile believes it; None: it takes more to know it."""
    if not os.path.isfile(entry):
        return None
    try:
        file = soundfile.info(entry)
    except (soundfile.LibsndfileError, TypeError):
        return None
    return file.frames / file.samplerate if file.frames < _MOST_FRAMES else None


@contextmanager
def open_entry(entry: str, pipes: bool, rate: Optional[int] = None) -> Iterator[Recording]:
    """Open an entry of wav.scp: a file; FILE:OFFSET of an archive; where `pipes` are allowed, `COMMAND |`.

    A recording that a command writes or an archive holds is stored in $TMPDIR while it is read.

    Raises:
        CommandError: it is a command, and `pipes` is False
        AudioError: see Recording; or the command fails, or the archive has no sound there
    """
    archive = re.fullmatch(r"(.+):(\d+)", entry)
    if entry.endswith("|"):
        if not pipes:
            raise CommandError(f"{entry}: a command, which is not allowed here")
        write = functools.partial(_run, entry[:-1])
    elif archive and os.path.isfile(archive[1]) and not os.path.isfile(entry):
        write = functools.partial(_extract, archive[1], int(archive[2]))
    else:
        with Recording(entry, rate) as recording:
            yield recording
        return
    with tempfile.NamedTemporaryFile(prefix="espnet_rand.", suffix=".wav") as file:
        write(file)
        file.flush()
        with Recording(file.name, rate, name=entry) as recording:
            yield recording


def _run(command: str, file: IO[bytes]) -> None:
    """Run a command, and write its output to a file."""
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        shutil.copyfileobj(process.stdout, file)
    if process.returncode != 0:
        raise AudioError(f"{command}|: the command ends with status {process.returncode}")


def _extract(path: str, offset: int, file: IO[bytes]) -> None:
    """Write a recording of an archive to a file, as WAV."""
    entry = f"{path}:{offset}"
    try:
        from kaldiio.matio import read_kaldi
    except ImportError:
        raise AudioError(f"{entry}: in an archive of Kaldi. Fix: pip install kaldiio") from None
    with open(path, "rb") as archive:
        archive.seek(offset)
        if not archive.read(5).startswith((b"RIFF", b"AUDIO")):  # kaldiio would unpickle what is marked as a pickle
            raise AudioError(f"{entry}: no sound there: neither WAV nor what kaldiio marks as AUDIO")
        archive.seek(offset)
        try:
            rate, samples = read_kaldi(archive)  # an open file: kaldiio would run a path that ends with "|"
            soundfile.write(file, samples, rate, "FLOAT" if samples.dtype.kind == "f" else "PCM_16", format="WAV")
        except Exception as e:  # anything may be at that place
            raise AudioError(f"{entry}: no sound there: {(str(e) or type(e).__name__).splitlines()[0]}") from None
