"""Pairs of sentences in two languages: clean, split by document, without what training has said already; written."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

from espnet_rand.atomic import replacing_directory
from espnet_rand.kaldi import DataError

MAX_WORDS = 100  # longer ones are lists and tables
ORDER = 4  # words of an n-gram
SHARED = 0.6  # a sentence that shares this part of its n-grams with one training sentence is no test


class Pair(NamedTuple):
    """A sentence and its translation, with the name that both have in the data directories."""

    key: str
    source: str
    target: str


def clean(text: str) -> str:
    """Return a text as sentencepiece's tokens can say it: Unicode's form NFKC, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def words(text: str) -> List[str]:
    """Return the words of a clean text without case and punctuation, which tell no sentences apart."""
    return re.findall(r"\w+", text.casefold())


def worthy(pairs: Iterable[Pair], min_words: int) -> Iterator[Pair]:
    """Yield the pairs that are worth translating: the source has some words, the two texts differ, each pair once."""
    seen = set()
    for key, *texts in pairs:
        source, target = map(clean, texts)
        lengths = [len(words(text)) for text in (source, target)]
        bad = lengths[0] < min_words or not lengths[1] or max(lengths) > MAX_WORDS or source == target
        if bad or (source, target) in seen:
            continue
        seen.add((source, target))
        yield Pair(key, source, target)


def set_of(document: str, shares: Dict[str, float]) -> str:
    """Return the set that a document is in, by a hash of its name: one of `shares`, or `train`."""
    place = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return "train"


def ngrams(text: str) -> Set[Tuple[str, ...]]:
    """Return the n-grams of a text's words."""
    said = words(text)
    return {tuple(said[i : i + ORDER]) for i in range(len(said) - ORDER + 1)}


class Said:
    """What training says: its texts in both languages, and the n-grams of each of its source sentences."""

    def __init__(self, pairs: Iterable[Pair]):
        self.texts: Set[Tuple[str, ...]] = set()
        self.sentences = defaultdict(list)  # n-gram: the numbers of the sentences that have it
        for number, pair in enumerate(pairs):
            self.add(pair)
            for ngram in ngrams(pair.source):
                self.sentences[ngram].append(number)

    def add(self, pair: Pair) -> None:
        """Note the texts of a pair."""
        self.texts.update((tuple(words(pair.source)), tuple(words(pair.target))))

    def has(self, pair: Pair) -> bool:
        """Whether a text of the pair was said, or much of its source in one sentence."""
        if self.texts & {tuple(words(pair.source)), tuple(words(pair.target))}:
            return True
        own = ngrams(pair.source)
        shared = Counter(number for ngram in own for number in self.sentences.get(ngram, ()))
        return bool(own) and max(shared.values(), default=0) >= SHARED * len(own)


def unsaid(pairs: Iterable[Pair], said: Said) -> List[Pair]:
    """Return the pairs that training does not say; of those with a text in common, the first."""
    kept = []
    for pair in pairs:
        if not said.has(pair):
            said.add(pair)
            kept.append(pair)
    return kept


def write_set(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write the data directory of a set: text.src and text, sorted by their keys.

    Raises:
        DataError: there are no pairs, or two have one key
    """
    rows = sorted(pairs)
    if not rows:
        raise DataError(f"{folder}: there are no pairs of sentences")
    twice = [key for key, count in Counter(pair.key for pair in rows).items() if count > 1]
    if twice:
        raise DataError(f"{folder}: {twice[0]} comes twice")
    with replacing_directory(folder) as temporary:
        for name, column in (("text.src", 1), ("text", 2)):
            lines = "".join(f"{pair.key} {pair[column]}\n" for pair in rows)
            (temporary / name).write_text(lines, encoding="utf-8")
    counts = [sum(len(pair[column].split()) for pair in rows) for column in (1, 2)]
    print(f"{folder}: {len(rows)} pairs, {counts[0]} words into {counts[1]}")
