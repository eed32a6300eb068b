"""Finds speech by silero-vad (https://github.com/snakers4/silero-vad; MIT; its model is in its package)."""

from typing import List, Tuple

import torch

from espnet_rand.errors import UserError
from espnet_rand.longform.audio import Recording

# samples that the model takes at a time, at the rates it knows
_CHUNK = {16000: 512, 8000: 256}
#: Milliseconds: a pause that ends a stretch of speech, and what a stretch gets on either side.
PAUSE, MARGIN = 500, 200


class VadError(UserError):
    """Voice activity cannot be detected; the message says what is missing, in one line."""


def speech(recording: Recording) -> List[Tuple[int, int]]:
    """Find the stretches with speech, in samples; the recording is read a minute at a time.

    Raises:
        VadError: see check
        AudioError: see Recording.read
    """
    check(recording.rate)
    chunk = _CHUNK[recording.rate]
    detect = _detector(recording.rate)
    found: List[Tuple[int, int]] = []
    begun = None
    block = 60 * recording.rate // chunk * chunk
    for start in range(0, recording.length, block):
        samples = torch.from_numpy(recording.read(start, min(start + block, recording.length)))
        samples = torch.nn.functional.pad(samples, (0, -len(samples) % chunk))
        for part in samples.split(chunk):
            event = detect(part) or {}
            begun = event.get("start", begun)
            if "end" in event:
                found.append((begun, min(event["end"], recording.length)))
                begun = None
    return found if begun is None else [*found, (begun, recording.length)]


def check(rate: int) -> None:
    """Raise VadError where silero-vad is not installed, or does not know the rate, in Hz."""
    if rate not in _CHUNK:
        raise VadError(f"--mode vad: silero-vad knows 8000 and 16000 Hz, the model has {rate}. Fix: --mode windows")
    _import()


def _detector(rate: int):
    """silero-vad's detector for so many Hz."""
    silero_vad = _import()
    return silero_vad.VADIterator(
        silero_vad.load_silero_vad(), sampling_rate=rate, min_silence_duration_ms=PAUSE, speech_pad_ms=MARGIN
    )


def _import():
    """Import silero-vad, and leave torch its number of threads."""
    threads = torch.get_num_threads()
    try:
        import silero_vad
    except ImportError:
        raise VadError("--mode vad needs silero-vad. Fix: pip install silero-vad") from None
    finally:
        torch.set_num_threads(threads)  # it sets them to one
    return silero_vad
