"""What the results are measured by: word error rate, or BLEU."""

from typing import Any, Dict, List, Sequence, Type, Union

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from espnet_rand.reporting import bleu_on_draws, draws

Part = Dict[str, Any]  # what a line of results has of the development or the test set


class WordErrors:
    """The word error rate in percent; a part has `words` and `errors`, a number for each sentence."""

    name = "WER %"
    worse = 1  # the sign of how bad it is

    @staticmethod
    def value(part: Part) -> float:
        """The measure on all sentences."""
        return 100 * sum(part["errors"]) / sum(part["words"])

    @staticmethod
    def sentences(part: Part) -> int:
        """How many sentences test has."""
        return len(part["words"])

    @staticmethod
    def drawn(part: Part) -> np.ndarray:
        """The measure on each draw of the bootstrap, (draws,)."""
        errors, words = np.array(part["errors"]), np.array(part["words"])
        on = draws(len(words))
        return 100 * (on @ errors) / (on @ words)


class Bleu:
    """BLEU from 0 to 100; a part has `bleu`, and of test `counts`.

    The counts of a sentence are its length, that of its reference, and its n-grams of 1 to 4 words that are there.
    """

    name = "BLEU"
    worse = -1

    @staticmethod
    def value(part: Part) -> float:
        """The measure on all sentences."""
        return part["bleu"]

    @staticmethod
    def sentences(part: Part) -> int:
        """How many sentences test has."""
        return len(part["counts"])

    @staticmethod
    def drawn(part: Part) -> np.ndarray:
        """The measure on each draw of the bootstrap, (draws,)."""
        counts = np.array(part["counts"])
        lengths, references, *correct = counts.T
        total = [np.maximum(lengths - n, 0) for n in range(4)]
        return bleu_on_draws(np.stack([lengths, references, *correct, *total], 1))


Measure = Type[Union[WordErrors, Bleu]]


def measure_of(part: Part) -> Measure:
    """What a part of a line is measured by."""
    return Bleu if "bleu" in part else WordErrors


def badness(part: Part) -> float:
    """A number that is higher for a worse model."""
    measure = measure_of(part)
    return measure.worse * measure.value(part)


def bleu(references: Sequence[str], heard: Sequence[str]) -> Dict[str, Any]:
    """The part of a line that says how good translations are: BLEU, chrF and the counts of BLEU."""
    metric = BLEU()
    counts: List[List[int]] = metric._extract_corpus_statistics(heard, [references])
    return {
        "bleu": metric.corpus_score(heard, [references]).score,
        "chrf": CHRF().corpus_score(heard, [references]).score,
        "counts": [row[:6] for row in counts],
    }
