"""Joins the words of pieces that overlap, so that none is lost or doubled."""

import unicodedata
from typing import List, NamedTuple, Optional, Sequence, Tuple

from espnet_rand.toolkit.recognition import Heard, Word
from espnet_rand.toolkit.recognition.words import unspaced

#: Seconds by which the middle of a word may differ between two pieces.
TOLERANCE = 0.25
# seconds; a word that an edge cuts is not farther than this from the same word in the other piece
_GAP = 0.1
#: A joint prefers words in a run of so many words that both pieces have.
_RUN = 3


class _Pair(NamedTuple):
    """A word that both pieces have: its places in the earlier and the later, its time, and the length of its run."""

    earlier: int
    later: int
    time: float
    run: int


def join(said: Sequence[Word], heard: Heard, start: float, end: float, timed: bool) -> List[Word]:
    """Join the words so far and those of the next piece.

    Both pieces saw the time between `start` and `end`. There, words that agree in text (but for case and punctuation)
    and time are paired, in order, such that the pairs agree best. The joint is the pair nearest the middle; pairs in
    runs of three and more come first. Up to the joint the words are the earlier piece's, which has more context on the
    left; after it they are the later's. Without a pair the joint is the middle; where one piece has no words, the
    other's count. Times that are only estimates cannot tell that. Without a pair all words of both are then kept, so
    that none is lost, though some may come twice.

    At the joint, starts do not go back: estimates are moved together, other times by no more than two pieces differ.

    Args:
        said: the words of the pieces so far, with times in the recording in seconds
        heard: the words of the next piece, with times in the recording
        start, end: the time that both saw, in seconds; start >= end: none
        timed: whether the last of the times so far are more than estimates
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
        both = _merged(before[joint.earlier], after[joint.later])
        earlier, later = [*before[: joint.earlier], both], heard.words[joint.later + 1 :]
    elif timed and heard.timed:
        earlier, later = _by_time(before, heard.words, start, middle, end)
        later = _spaced(said[: first + len(earlier)], later, before[len(earlier) :], heard.words)
    else:
        earlier, later = before, heard.words
    earlier, later = _in_order(earlier, later, timed, heard.timed)
    return [*said[:first], *earlier, *later]


def _merged(earlier: Word, later: Word) -> Word:
    """Write the word of a joint, which both pieces have.

    It begins as in the earlier piece: in the later a capital may stand there because that piece begins. It ends as in
    the later: in the earlier a full stop may stand there because that piece ends. If they differ within (U.S., US), it
    is the later's.
    """
    (opening, ours, _), (_, theirs, closing) = _parts(earlier.text), _parts(later.text)
    text = opening + ours + closing if ours.casefold() == theirs.casefold() else later.text
    space = later.space_before if earlier.space_before is None else earlier.space_before
    return earlier._replace(text=text, space_before=space)


def _parts(text: str) -> Tuple[str, str, str]:
    """Split a word into the punctuation at its beginning, the word itself and the punctuation at its end."""
    letters = [i for i, character in enumerate(text) if not _is_punctuation(character)] or [0, len(text)]
    first, last = letters[0], letters[-1] + 1
    return text[:first], text[first:last], text[last:]


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "P"


def comparable(text: str) -> str:
    """Write a text without case, and without punctuation if there is anything else: spellings differ in these."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if not _is_punctuation(c)).casefold() or text


def _pairs(before: Sequence[Word], after: Sequence[Word], tolerance: float) -> List[_Pair]:
    """Pair words by the common subsequence that agrees best: 1 for the same time, 0 for `tolerance` between them."""
    ours, theirs = [comparable(word.text) for word in before], [comparable(word.text) for word in after]

    best = [[0.0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i, a in enumerate(before):
        for j, b in enumerate(after):
            gain = 1 - abs(a.middle - b.middle) / tolerance if ours[i] == theirs[j] else 0.0
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
    """The length of the run that the n-th pair is in: pairs next to one another in both pieces."""
    i, j = places[n]
    return sum((i + k, j + k) == place for place, k in zip(places, range(-n, len(places) - n)))


def _joint(pairs: Sequence[_Pair], middle: float) -> Optional[_Pair]:
    """The pair to join at; None: there are no pairs."""
    return min(pairs, key=lambda pair: (-min(pair.run, _RUN), abs(pair.time - middle)), default=None)


def _by_time(
    before: Sequence[Word], after: Sequence[Word], start: float, middle: float, end: float
) -> Tuple[List[Word], List[Word]]:
    """Take the earlier's words before the middle, and the later's after it; where one has no words, the other's."""
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
        # one word that the two heard differently, or the rest of one at an edge: it stays where it is farther inside
        (earlier if cut > middle else later).pop(-1 if cut > middle else 0)
    return earlier, later


def _spaced(said: Sequence[Word], later: List[Word], cut: Sequence[Word], heard: Sequence[Word]) -> List[Word]:
    """Set the space before the first of the later's words, which follows another word than in its own text.

    The space is taken from a place in either text that is alike: one side has the characters of the joint, and the
    other has characters of the same kind, with spaces or without. Otherwise it is not known.

    Args:
        said: all words before the joint
        later: the words after it
        cut: the words of the earlier piece after it
        heard: all words of the later piece
    """
    if not said or not later:
        return later
    word, place = later[0], len(heard) - len(later)
    space = None
    if place == 0 or unspaced(heard[place - 1].text[-1:]) == unspaced(said[-1].text[-1:]):
        space = word.space_before
    if space is None and cut and unspaced(cut[0].text[:1]) == unspaced(word.text[:1]):
        space = cut[0].space_before
    return [word._replace(space_before=space), *later[1:]]


def _in_order(
    earlier: Sequence[Word], later: Sequence[Word], timed: bool, later_timed: bool
) -> Tuple[Sequence[Word], Sequence[Word]]:
    """Change times, so that they do not go back at a joint; return the words before and after it."""
    if not earlier or not later:
        return earlier, later
    if not later_timed:
        later = _fitted(later, max(later[0].start, earlier[-1].end), later[-1].end)
    elif not timed:
        earlier = _fitted(earlier, earlier[0].start, min(later[0].start, earlier[-1].end))
    start = earlier[-1].start
    return earlier, [w._replace(start=max(start, w.start), end=max(start, w.end)) for w in later]


def _fitted(words: Sequence[Word], start: float, end: float) -> Sequence[Word]:
    """Fit estimated times into the time from `start` to `end`; leave them as they are if that is no time."""
    length = words[-1].end - words[0].start
    if length <= 0 or start >= end:
        return words
    rate = (end - start) / length
    times = [(start + (w.start - words[0].start) * rate, start + (w.end - words[0].start) * rate) for w in words]
    return [w._replace(start=begun, end=done) for w, (begun, done) in zip(words, times)]
