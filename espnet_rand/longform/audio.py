"""Recordings, read from disk a stretch at a time."""

import functools
import math
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Union

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from espnet_rand.errors import UserError

# a filter of torchaudio.functional.resample has so many values at most; odd rates such as 44101 Hz want gigabytes
_LARGEST_FILTER = 4_000_000
# what a filter reaches to each side, in periods of the lower rate; torchaudio's default is 6
_REACH = 8


class AudioError(UserError):
    """Why a recording cannot be read, in one line."""


class CommandError(AudioError):
    """A recording is a command, where none may be run."""


class Recording:
    """A recording of one channel at the rate that is asked for.

    Several channels are mixed, another rate is converted stretch by stretch: what `read` returns is, sample by sample,
    a part of the whole recording converted.

    Args:
        source: a file that libsndfile reads, or samples at `rate`, (samples,), within -1 and 1
        rate: of what `read` returns, in Hz; default: the file's own
        name: what messages call it; default: the file's

    Attributes:
        length: samples at `rate`
        notes: what was done to it

    Raises:
        AudioError: it cannot be read, is empty, ends before its end, or has a rate that cannot be converted
    """

    def __init__(self, source: Union[str, Path, np.ndarray, torch.Tensor], rate: Optional[int] = None, name: str = ""):
        self.rate = rate
        self.notes: List[str] = []
        self._file = None
        self._version: Dict[str, Any] = {"modified": None}
        if isinstance(source, (np.ndarray, torch.Tensor)):
            self.name = name or "samples"
            samples = np.asarray(source)
            if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
                raise AudioError(
                    f"samples: one channel of floats is wanted, (samples,); it is {samples.dtype} {samples.shape}"
                )
            self._samples = np.array(samples, np.float32, order="C")
            self._version = {"crc32": zlib.crc32(self._samples)}
            self._set(rate, len(self._samples))
        else:
            self.name = name or os.path.abspath(source)
            self._open(str(source))

    @property
    def seconds(self) -> float:
        return self.length / self.rate

    def identity(self) -> Dict[str, Any]:
        """What tells whether it is the same as in an earlier run."""
        return {"name": self.name, "length": self.length, **self._version}

    def read(self, start: int, stop: int) -> np.ndarray:
        """The samples from `start` to `stop` (in samples at `rate`; within the recording), float32.

        Raises:
            AudioError: the file is damaged there, or has values that are no numbers
        """
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
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _open(self, path: str) -> None:
        try:
            if not os.path.isfile(path):
                raise AudioError(f"{self.name}: there is no such file")
            if self.name == os.path.abspath(path):
                self._version = {"modified": os.path.getmtime(path)}
            self._file = soundfile.SoundFile(path)
            self._channels = self._file.channels
            self._set(self._file.samplerate, self._file.frames)
            self._read(self._frames - 1, self._frames)
        except (soundfile.LibsndfileError, OSError, TypeError) as e:  # TypeError: of .raw files, which have no header
            raise AudioError(f"{self.name}: not to be read: {str(e).splitlines()[0]}") from None
        except AudioError:
            self.close()
            raise
        # libsndfile says so of WAV, AIFF and others; not refused: what writes to a pipe states the largest size
        sizes = re.findall(r"(\d+) \(should be (\d+)\)", self._file.extra_info)
        if any(int(header) > int(found) for header, found in sizes):
            self.notes.append("shorter than its header says")
        if self._channels > 1:
            self.notes.append(f"{self._channels} channels, mixed into one")

    def _set(self, rate: int, frames: int) -> None:
        """The length at both rates; `_down` frames of the source make `_up` samples."""
        if frames == 0:
            raise AudioError(f"{self.name}: it is empty")
        self.rate = self.rate or rate
        divisor = math.gcd(rate, self.rate)
        self._frames, self._down, self._up = frames, rate // divisor, self.rate // divisor
        self.length = -(-frames * self._up // self._down)
        if rate == self.rate:
            return
        if self._down * self._up > _LARGEST_FILTER:
            raise AudioError(
                f"{self.name}: {rate} Hz and the model's {self.rate} Hz have too little in common to be converted "
                "here. Mend: convert it with sox or ffmpeg"
            )
        self.notes.append(f"converted from {rate} to {self.rate} Hz")

    def _read(self, first: int, last: int) -> np.ndarray:
        """Frames of the source, mixed to one channel."""
        if self._file is None:
            return self._samples[first:last]
        try:
            self._file.seek(first)
            samples = self._file.read(last - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as e:
            raise AudioError(f"{self.name}: damaged at {first / self._file.samplerate:.1f} s: {e}") from None
        if len(samples) < last - first:
            raise AudioError(
                f"{self.name}: it ends at {(first + len(samples)) / self._file.samplerate:.1f} s; its header says "
                f"{self._frames / self._file.samplerate:.1f} s"
            )
        return np.ascontiguousarray(samples[:, 0] if self._channels == 1 else samples.mean(axis=1))


@contextmanager
def opened(entry: str, pipes: bool, rate: Optional[int] = None) -> Iterator[Recording]:
    """The recording of an entry of wav.scp: a file; FILE:OFFSET of an archive; where `pipes` are allowed, `COMMAND |`.

    What a command writes, or an archive holds, is stored in $TMPDIR while it is read.

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


def _run(command: str, file: BinaryIO) -> None:
    """Write what a command writes."""
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        shutil.copyfileobj(process.stdout, file)
    if process.returncode != 0:
        raise AudioError(f"{command}|: the command ends with status {process.returncode}")


def _extract(path: str, offset: int, file: BinaryIO) -> None:
    """Write a recording of an archive, as WAV."""
    entry = f"{path}:{offset}"
    try:
        from kaldiio.matio import read_kaldi
    except ImportError:
        raise AudioError(f"{entry}: in an archive of Kaldi. Mend: pip install kaldiio") from None
    with open(path, "rb") as archive:
        archive.seek(offset)
        if not archive.read(5).startswith((b"RIFF", b"AUDIO")):  # kaldiio would unpickle what is marked as a pickle
            raise AudioError(f"{entry}: no sound there: neither WAV nor what kaldiio marks as AUDIO")
        archive.seek(offset)
        try:
            rate, samples = read_kaldi(archive)  # of a path kaldiio would run what ends with "|"
            soundfile.write(file, samples, rate, "FLOAT" if samples.dtype.kind == "f" else "PCM_16", format="WAV")
        except Exception as e:  # of whatever is at that place
            raise AudioError(f"{entry}: no sound there: {(str(e) or type(e).__name__).splitlines()[0]}") from None
