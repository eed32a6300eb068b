#!/usr/bin/env python3
"""Translate each test sentence by the translation of the training sentence that is nearest to it.

What a memory of the training set scores so, a model must beat. Sentences are near by the cosine of their words and
pairs of words, weighted by TF-IDF (Salton and Buckley, 1988).
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from espnet_rand.atomic import write_text
from espnet_rand.kaldi import DataError, read_lines

AT_A_TIME = 256  # test sentences


def terms(text: str) -> Counter:
    """Count the words of a text, and the pairs of words that follow each other."""
    words = re.findall(r"\w+", text.casefold())
    return Counter([*words, *zip(words, words[1:])])


def vectors(texts: list, weights: dict) -> csr_matrix:
    """Return the sentences as rows of length one, in the terms that have weights.

    Args:
        weights: a term's column, and its inverse frequency
    """
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        found = {term: count for term, count in terms(text).items() if term in weights}
        parts = np.array([count * weights[term][1] for term, count in found.items()])
        rows += [row] * len(found)
        columns += [weights[term][0] for term in found]
        values += list(parts / (np.linalg.norm(parts) or 1))
    return csr_matrix((values, (rows, columns)), shape=(len(texts), len(weights)))


def nearest(training: list, test: list) -> list:
    """Return for each test sentence the number of the training sentence that is nearest; of equals, the first."""
    frequencies = Counter(term for text in training for term in terms(text))
    weights = {term: (i, np.log(len(training) / (1 + n)) + 1) for i, (term, n) in enumerate(frequencies.items())}
    known, found = vectors(training, weights).T.tocsc(), vectors(test, weights)
    parts = (found[first : first + AT_A_TIME] for first in range(0, len(test), AT_A_TIME))
    return [int(number) for part in parts for number in np.asarray((part @ known).todense()).argmax(1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="a data directory with text.src and text")
    parser.add_argument("--test", type=Path, required=True, help="one with text.src")
    parser.add_argument("--output", type=Path, required=True, help="a Kaldi-style text")
    args = parser.parse_args()
    try:
        source, target = (read_lines(args.train / name) for name in ("text.src", "text"))
        test = read_lines(args.test / "text.src")
    except DataError as e:
        sys.exit(f"{sys.argv[0]}: {e}")
    keys = list(source)
    numbers = nearest(list(source.values()), list(test.values()))
    write_text(args.output, "".join(f"{key} {target[keys[number]]}\n" for key, number in zip(test, numbers)))


if __name__ == "__main__":
    main()
