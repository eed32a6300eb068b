"""Where a recording is quiet."""

import numpy as np

# frames a second
_FRAMES = 10


def quietest(samples: np.ndarray, rate: int) -> int:
    """The middle of the quietest fifth of a second in a stretch, (samples,), of a fifth of a second or more."""
    frame = rate // _FRAMES
    count = len(samples) // frame
    energy = np.square(samples[: count * frame], dtype=np.float64).reshape(count, frame).sum(1)
    return frame * (1 + int(np.argmin(energy[:-1] + energy[1:])))
