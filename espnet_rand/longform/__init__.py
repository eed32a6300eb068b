"""Long recordings: decoding in bounded memory, test sets, scores by duration."""

from espnet_rand.longform.decoding import LongForm, Transcript
from espnet_rand.longform.sound import AudioError

__all__ = ["AudioError", "LongForm", "Transcript"]
