"""Words with times, and how texts are split into words and joined again."""

import re
import unicodedata
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

# scripts that are written without spaces, where a character counts as a word: Thai, Lao, Tibetan, Burmese, Khmer, Tai,
# Javanese, Balinese, kana and the punctuation of Chinese and Japanese, Han, Bopomofo, upright and full-width forms,
# further kana, further Han, and the signs that choose between forms of Han
_UNSPACED = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19FF),
    (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F),
    (0x2E80, 0x312F),
    (0x3190, 0x9FFF),
    (0xA980, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0xFE10, 0xFE1F),
    (0xFE30, 0xFE4F),
    (0xFF00, 0xFFEF),
    (0x1AFF0, 0x1B16F),
    (0x1F200, 0x1F2FF),
    (0x20000, 0x3FFFF),
    (0xE0100, 0xE01EF),
)


class Word(NamedTuple):
    """A word, and when it is said.

    Attributes:
        text: without white space
        start, end: in seconds
        space_before: the white space between the word before and this one, "" for none. None: not known, as before the
            first word of a text
    """

    text: str
    start: float
    end: float
    space_before: Optional[str] = None

    @property
    def middle(self) -> float:
        """The time in the middle of the word, in seconds."""
        return (self.start + self.end) / 2


class Heard(NamedTuple):
    """The words that are heard in a piece of a recording.

    Attributes:
        words: in order
        timed: their times come from an alignment; otherwise they are spread over the piece
        notes: remarks on the piece
    """

    words: List[Word]
    timed: bool = True
    notes: Tuple[str, ...] = ()

    def moved(self, seconds: float) -> "Heard":
        """Move the words so many seconds later."""
        return self._replace(words=[w._replace(start=w.start + seconds, end=w.end + seconds) for w in self.words])


def join_text(words: Sequence[Word]) -> str:
    """Join words to a text, with the white space of the texts that they come from."""
    return "".join(space + word.text for space, word in zip(spaces(words), words))


def spaces(words: Sequence[Word]) -> List[str]:
    """The white space before each word.

    Where it is not known: a space, but none at the beginning, none between characters of scripts that are written
    without spaces, and none between those and digits.
    """
    found, last = [], ""
    for word in words:
        guess = " " if last and _apart(last[-1], word.text[:1]) else ""
        found.append(guess if word.space_before is None else word.space_before)
        last = word.text or last
    return found


def _apart(before: str, after: str) -> bool:
    """Whether a space is likely between two characters."""
    if unspaced(before) and unspaced(after):
        return False
    if unspaced(before) or unspaced(after):
        return not (after if unspaced(before) else before).isdecimal()
    return True


def unspaced(character: str) -> bool:
    """Whether a character is of a script that is written without spaces; an empty text is not."""
    return character != "" and any(low <= ord(character) <= high for low, high in _UNSPACED)


def word_tokens(
    text: str, tokens: List[str], to_text: Callable[[List[str]], str], each: bool = False
) -> List[Tuple[str, int, int, Optional[str]]]:
    """Split a text into words, with the numbers of their first and last tokens, and the white space before them.

    With that white space they are the text again, except for its end. The first word has None in place of no space: the
    text does not say what came before.

    Args:
        text: the text of all tokens
        to_text: makes a text of tokens
        each: whether each token counts as a word, as phonemes do, which ESPnet writes without spaces
    """
    owners = _owners(text, tokens, to_text)
    words, last = [], 0
    for stretch in re.finditer(r"\S+", text):
        inside = range(stretch.start() + 1, stretch.end())
        begins = [i for i in inside if (owners[i] != owners[i - 1] if each else _begins(text, i))]
        for start, end in zip([stretch.start(), *begins], [*begins, stretch.end()]):
            space = text[last:start] if words else text[:start] or None
            words.append((text[start:end], owners[start], owners[end - 1], space))
            last = end
    return words


def _owners(text: str, tokens: List[str], to_text: Callable[[List[str]], str]) -> List[int]:
    """The number of the token that each character of a text comes from."""
    # a token's part of the text is found with some tokens before it: a character may come from several
    context = 8
    owners: List[int] = []
    for i in range(len(tokens)):
        before = tokens[max(0, i - context) : i]
        added = len(to_text([*before, tokens[i]])) - (len(to_text(before)) if before else 0)
        if added < 0:  # it completes a character, which was shown as several so far: a sign for each byte
            del owners[added:]
        owners += [i] * added
    return owners + [len(tokens) - 1] * (len(text) - len(owners))


def _begins(text: str, i: int) -> bool:
    """Whether a character begins a word, with no space before it: it or the one before is of an unspaced script."""
    if _belongs(text, i):
        return False
    before = i - 1
    while before and _belongs(text, before):
        before -= 1
    return unspaced(text[i]) or unspaced(text[before])


def _belongs(text: str, i: int) -> bool:
    """Whether a character belongs to the one before: a mark, something invisible, or joined by a sign between them."""
    virama = 9
    return (
        unicodedata.category(text[i])[0] == "M"
        or unicodedata.category(text[i]) == "Cf"
        or unicodedata.combining(text[i - 1]) == virama
    )
