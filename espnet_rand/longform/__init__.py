"""Long recordings: decoding in bounded memory, test sets, scores by duration."""

from espnet_rand.longform.audio import AudioError
from espnet_rand.longform.decoding import LongForm, Transcript

__all__ = ["AudioError", "LongForm", "Transcript"]
