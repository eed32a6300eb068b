"""A recognizer that knows what is said when: recordings are ramps, so that a piece of one says where it lies."""

from typing import List, Optional, Sequence

import numpy as np

from espnet_rand.toolkit.recognition import Heard, Word

#: In Hz; a ramp of an hour is exact in float32.
RATE = 100
STEP = 2.0**-19
_FIRST = 4096  # not silent


def ramp(seconds: float) -> np.ndarray:
    """A recording whose samples count up."""
    return (np.arange(round(seconds * RATE), dtype=np.float32) + _FIRST) * np.float32(STEP)


def spoken(texts: Sequence[str], start: float = 0.0, seconds: float = 0.31, pause: float = 0.08) -> List[Word]:
    """Words one after the other."""
    words = []
    for n, text in enumerate(texts):
        length = seconds * (1 + n % 3 / 4)
        words.append(Word(text, start, start + length))
        start += length + pause
    return words


class Stub:
    """Hears the words that lie in a piece, and of those that its edges cut a part, or nothing.

    Args:
        words: what is said in the recording
        cut: what becomes of a word that an edge cuts: part (its letters on this side), lost, other
        timed: whether the times are right (within 30 ms), or spread evenly over the piece
        calls: the first samples of the pieces that were heard
    """

    rate = RATE

    def __init__(self, words: List[Word], cut: str = "part", timed: bool = True):
        self.words, self.cut, self.timed = words, cut, timed
        self.calls: List[int] = []

    def __call__(self, samples: np.ndarray) -> Heard:
        first = round(samples[0] / STEP) - _FIRST
        self.calls.append(first)
        start, end = first / RATE, (first + len(samples)) / RATE
        jitter = 0.03 if len(self.calls) % 2 else -0.03
        heard = []
        for word in self.words:
            text = self._text(word, start, end)
            if text:
                times = (max(word.start, start) - start + jitter, min(word.end, end) - start + jitter)
                heard.append(Word(text, *np.clip(times, 0, end - start).tolist()))
        if not self.timed:
            step = (end - start) / max(1, len(heard))
            heard = [Word(word.text, n * step, (n + 1) * step) for n, word in enumerate(heard)]
        return Heard(heard, self.timed)

    def _text(self, word: Word, start: float, end: float) -> Optional[str]:
        inside = min(word.end, end) - max(word.start, start)
        share = inside / (word.end - word.start)
        if share <= 0:
            return None
        if share >= 0.999:
            return word.text
        letters = round(share * len(word.text))
        part = word.text[-letters:] if word.start < start else word.text[:letters]
        return {"part": part if letters else None, "lost": None, "other": "eh"}[self.cut]
