"""Cuts a recording into the pieces that it is decoded in."""

from typing import Iterable, List, NamedTuple, Tuple


class Piece(NamedTuple):
    """A stretch of a recording, in samples at the model's rate."""

    start: int
    stop: int


def windows(start: int, stop: int, window: int, overlap: int) -> List[Piece]:
    """Cut a stretch into windows of `window` samples, each of which begins `overlap` samples before the last one's end.

    The last may be shorter, but is longer than the overlap. Only neighbours overlap: `overlap` <= window / 2.
    """
    step = window - overlap
    count = 1 + max(0, -(-(stop - start - window) // step))
    return [Piece(start + i * step, min(stop, start + i * step + window)) for i in range(count)]


def packed(speech: Iterable[Tuple[int, int]], window: int, overlap: int) -> List[Piece]:
    """Put as many stretches of speech into a piece as fit into a window; cut longer ones into windows."""
    pieces: List[Piece] = []
    for start, stop in speech:
        if pieces and stop - pieces[-1].start <= window:
            pieces[-1] = pieces[-1]._replace(stop=stop)
        else:
            # a stretch's margin may reach into the last one, but nothing is to be heard twice
            start = max(start, pieces[-1].stop) if pieces else start
            pieces += windows(start, stop, window, overlap)
    return pieces
