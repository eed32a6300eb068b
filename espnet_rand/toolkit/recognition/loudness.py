"""Where a recording is quiet, and whether its loudness is that of speech."""

import numpy as np

#: What is called quiet is as long as this, two frames.
QUIET_SECONDS = 0.2
# decibels by which half of the frames are above the quietest tenth: 18 or more in 20 s of speech with little noise,
# up to 16 in noise that rumbles, 0 to 2 in noise and hum
_MOVES = 16.0


def quietest(samples: np.ndarray, rate: int) -> int:
    """The middle of the quietest fifth of a second in a stretch, (samples,), of a fifth of a second or more."""
    energy = _energy(samples, rate)
    return _frame(rate) * (1 + int(np.argmin(energy[:-1] + energy[1:])))


def moves(samples: np.ndarray, rate: int) -> bool:
    """Whether a stretch, (samples,), is as loud as speech is: mostly far above its quietest moments.

    Noise that goes on is not, nor is a word with silence behind. Samples that are zero tell nothing of what is quiet.
    """
    energy = _energy(samples, rate)
    sound = energy[energy > 0]
    if not len(sound):
        return False
    return bool(np.quantile(energy, 0.5) > np.quantile(sound, 0.1) * 10 ** (_MOVES / 10))


def _frame(rate: int) -> int:
    """The samples of a frame."""
    return max(1, int(rate * QUIET_SECONDS / 2))


def _energy(samples: np.ndarray, rate: int) -> np.ndarray:
    """The energy of each frame, (frames,)."""
    frame = _frame(rate)
    count = len(samples) // frame
    return np.square(samples[: count * frame], dtype=np.float64).reshape(count, frame).sum(1)
