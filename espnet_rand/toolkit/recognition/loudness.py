"""Where a recording is quiet."""

import numpy as np

#: What is called quiet is as long as this, two frames.
QUIET_SECONDS = 0.2


def quietest(samples: np.ndarray, rate: int) -> int:
    """The middle of the quietest fifth of a second in a stretch, (samples,), of a fifth of a second or more."""
    frame = max(1, int(rate * QUIET_SECONDS / 2))
    count = len(samples) // frame
    energy = np.square(samples[: count * frame], dtype=np.float64).reshape(count, frame).sum(1)
    return frame * (1 + int(np.argmin(energy[:-1] + energy[1:])))
