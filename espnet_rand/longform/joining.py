"""Words of pieces that overlap, joined so that none is lost or doubled."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

from espnet_rand.toolkit.recognition import Heard, Word

#: Seconds that the middle of a word may differ by, heard in two pieces.
TOLERANCE = 0.25
# seconds; a word that an edge cuts and what the other piece heard of it are not farther apart
_GAP = 0.1
#: A joint prefers words that are in a run of so many that both pieces have.
_RUN = 3


class _Pair(NamedTuple):
    """A word that both pieces have: its places in the earlier and the later, its time, and the length of its run."""

    earlier: int
    later: int
    time: float
    run: int


def join(said: Sequence[Word], heard: Heard, start: float, end: float, timed: bool) -> List[Word]:
    """The words so far and those of the next piece.

    Both pieces saw what is between `start` and `end`. There, words that agree in text and time are paired, in order,
    such that the pairs agree best. The joint is the pair nearest the middle (of runs of three and more, if there are
    any): up to it the words are the earlier piece's, which has more context on the left, after it the later's. Without
    a pair the joint is the middle; where one piece has no words, the other's count. Times that are only estimates say
    nothing of that: without a pair all words of both are kept, so that none is lost, though some may come twice.

    Args:
        said: of the pieces so far, with times in the recording in seconds
        heard: of the next piece, with times in the recording
        start, end: of what both saw, in seconds; start >= end: nothing
        timed: whether the times of the words that were said last are more than estimates
    """
    if start >= end:
        return [*said, *heard.words]
    tolerance = TOLERANCE if timed and heard.timed else end - start
    first = next((i for i, word in enumerate(said) if word.end >= start - tolerance), len(said))
    last = next((i for i, word in enumerate(heard.words) if word.start > end + tolerance), len(heard.words))
    before, after = said[first:], heard.words[:last]
    middle = (start + end) / 2
    joint = _joint(_pairs(before, after, tolerance), middle)
    if joint is not None:
        return [*said[: first + joint.earlier + 1], *heard.words[joint.later + 1 :]]
    if not (timed and heard.timed):
        return [*said, *heard.words]
    return [*said[:first], *_by_time(before, heard.words, start, middle, end)]


def _pairs(before: Sequence[Word], after: Sequence[Word], tolerance: float) -> List[_Pair]:
    """The common subsequence with the largest sum of agreement: 1 for the same time, 0 for `tolerance` between."""

    def agreement(a: Word, b: Word) -> float:
        return 1 - abs(a.middle - b.middle) / tolerance if a.text == b.text else 0.0

    best = [[0.0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i, a in enumerate(before):
        for j, b in enumerate(after):
            gain = agreement(a, b)
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], best[i][j] + gain if gain > 0 else 0.0)
    places: List[Tuple[int, int]] = []
    i, j = len(before), len(after)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            places.insert(0, (i, j))
    return [_Pair(i, j, (before[i].middle + after[j].middle) / 2, _run(places, n)) for n, (i, j) in enumerate(places)]


def _run(places: Sequence[Tuple[int, int]], n: int) -> int:
    """How many pairs next to one another, in both pieces, the n-th is one of."""
    i, j = places[n]
    return sum((i + k, j + k) == place for place, k in zip(places, range(-n, len(places) - n)))


def _joint(pairs: Sequence[_Pair], middle: float) -> Optional[_Pair]:
    return min(pairs, key=lambda pair: (-min(pair.run, _RUN), abs(pair.time - middle)), default=None)


def _by_time(before: Sequence[Word], after: Sequence[Word], start: float, middle: float, end: float) -> List[Word]:
    """The earlier's words before the middle, the later's after it; those of one alone where the other has none."""
    cut = middle
    if not any(word.middle >= start for word in before):
        cut = start
    elif not any(word.middle <= end for word in after):
        cut = end
    earlier = [word for word in before if word.middle < cut]
    later = [word for word in after if word.middle >= cut]
    if (
        earlier
        and later
        and (
            later[0].middle < earlier[-1].end
            or earlier[-1].middle > later[0].start
            or (cut != middle and later[0].start < earlier[-1].end + _GAP)
        )
    ):
        # one word, which the two heard differently, or the rest of one at an edge: of the piece it is farther inside
        (earlier if cut > middle else later).pop(-1 if cut > middle else 0)
    return [*earlier, *later]
