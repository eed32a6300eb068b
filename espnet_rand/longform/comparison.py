"""Marks the words by which two transcripts of a recording differ."""

from typing import List, NamedTuple, Sequence

from espnet_rand.errors import NotInstalledError
from espnet_rand.toolkit.recognition import Word


class Marked(NamedTuple):
    """A word, and which of two transcripts has it: both, ours or theirs."""

    word: Word
    by: str


def check() -> None:
    """See that there is what aligns words. Raises NotInstalledError: it is not installed."""
    try:
        import rapidfuzz  # noqa: F401
    except ImportError:
        raise NotInstalledError("--compare needs rapidfuzz. Fix: pip install rapidfuzz") from None


def compare(ours: Sequence[Word], theirs: Sequence[Word]) -> List[Marked]:
    """Merge two transcripts along the alignment with the fewest differing words; where they differ, theirs come first.

    Words are the same if their texts are. A word that both have is ours.
    """
    from rapidfuzz.distance import Levenshtein

    merged, first, last = [], 0, 0
    aligned = Levenshtein.opcodes([word.text for word in theirs], [word.text for word in ours])
    for there, here, length in aligned.as_matching_blocks():  # the last is empty, at the end of both
        merged += [Marked(word, "theirs") for word in theirs[first:there]]
        merged += [Marked(word, "ours") for word in ours[last:here]]
        first, last = there + length, here + length
        merged += [Marked(word, "both") for word in ours[here:last]]
    return merged
