"""Finds what an attention decoder says over and over."""

from typing import List, NamedTuple, Optional, Sequence

# a loop: the same tokens REPEATS times in a row or more, TOKENS and CHARACTERS together or more. So "har har har har"
# is none, and neither are five digits of a number.
_REPEATS, _TOKENS, _CHARACTERS = 4, 24, 60
_LONGEST_PERIOD = 32
# how tokens of sentencepiece and Whisper begin that begin a word; the token between words, where tokens are characters
_SPACES, _SPACE = ("▁", " ", "Ġ"), "<space>"


class Loop(NamedTuple):
    """Tokens that are said over and over.

    Attributes:
        start: number of the first token
        period: tokens that are repeated
        stop: number of the token after the last
    """

    start: int
    period: int
    stop: int


def find_loop(tokens: Sequence[str]) -> Optional[Loop]:
    """Find the first loop among tokens; it begins with a word, if it has one."""
    found = [loop for period in range(1, _LONGEST_PERIOD + 1) if (loop := _loop_of(tokens, period))]
    if not found:
        return None
    start, period, stop = min(found)
    word = next((i for i in range(start, start + period) if _begins_word(tokens, i)), start)
    return Loop(word, period, stop)


def _begins_word(tokens: Sequence[str], i: int) -> bool:
    """Whether a token begins a word."""
    return i == 0 or tokens[i].startswith(_SPACES) or _SPACE in tokens[i - 1 : i + 1]


def _loop_of(tokens: Sequence[str], period: int) -> Optional[Loop]:
    """Find the first loop of a period."""
    start = 0
    for i in range(period, len(tokens) + 1):
        if i == len(tokens) or tokens[i] != tokens[i - period]:
            if _enough(tokens[start:i], period):
                return Loop(start, period, i)
            start = i + 1 - period
    return None


def _enough(tokens: Sequence[str], period: int) -> bool:
    """Whether tokens that repeat themselves are a loop."""
    if len(tokens) < max(_REPEATS * period, _TOKENS):
        return False
    return sum(1 if token == _SPACE else len(token) for token in tokens) >= _CHARACTERS


def ends_in_loop(tokens: Sequence[str]) -> bool:
    """Whether tokens end in a loop."""
    return any(_ends_in(tokens, period) for period in range(1, _LONGEST_PERIOD + 1))


def _ends_in(tokens: Sequence[str], period: int) -> bool:
    """Whether tokens end in a loop of a period."""
    start = len(tokens) - period
    while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
        start -= 1
    return _enough(tokens[max(start, 0) :], period)


def without_loops(tokens: Sequence[str], ids: Sequence[int]) -> List[int]:
    """Keep each loop once; return the numbers of the tokens. A loop at the end leaves out what it begins again."""
    tokens, ids = [*tokens], [*ids]
    while (loop := find_loop(tokens)) is not None:
        again = 0 if loop.stop == len(tokens) else (loop.stop - loop.start) % loop.period
        gone = slice(loop.start + loop.period, loop.stop - again)
        del tokens[gone], ids[gone]
    return ids
