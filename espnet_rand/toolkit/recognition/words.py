"""Words with times, and texts as words."""

from typing import Callable, List, NamedTuple, Tuple

# scripts that are written without spaces, where a character counts as a word: Thai, Lao, Burmese, Khmer, kana and the
# punctuation of Chinese and Japanese, Han, full-width forms, further Han
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3000, 0x30FF),
    (0x3400, 0x9FFF),
    (0xFF00, 0xFFEF),
    (0x20000, 0x3FFFF),
)


class Word(NamedTuple):
    """A word, and when it is said, in seconds."""

    text: str
    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


class Heard(NamedTuple):
    """What is heard in a piece of a recording.

    Attributes:
        words: in order
        timed: their times are those of an alignment; otherwise they are spread over the piece
        note: what is to be said about it, or nothing
    """

    words: List[Word]
    timed: bool = True
    note: str = ""


def join_text(words: List[Word]) -> str:
    """The words as a text; no spaces between characters of scripts that are written without."""
    text = ""
    for word in words:
        text += word.text if not text or (_unspaced(text[-1]) and _unspaced(word.text[0])) else " " + word.text
    return text


def _unspaced(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _UNSPACED)


def word_tokens(text: str, tokens: List[str], to_text: Callable[[List[str]], str]) -> List[Tuple[str, int, int]]:
    """The words of a text, with the numbers of their first and last tokens."""
    # what a token adds to the text, seen with some tokens before it: a character may be of several
    context = 8
    owners: List[int] = []
    for i in range(len(tokens)):
        before = tokens[max(0, i - context) : i]
        added = len(to_text([*before, tokens[i]])) - (len(to_text(before)) if before else 0)
        owners += [i] * max(0, added)
    owners += [len(tokens) - 1] * (len(text) - len(owners))
    words, start = [], 0
    for end in range(1, len(text) + 1):
        whole = end == len(text) or text[end].isspace() or _unspaced(text[end]) or _unspaced(text[end - 1])
        if text[start].isspace():
            start = end
        elif whole:
            words.append((text[start:end], owners[start], owners[end - 1]))
            start = end
    return words
