"""A scorer of score.py: word and character error rates by jiwer, in percent."""

import jiwer

COLUMNS = ["WER %", "CER %"]


def score(references: list, hypotheses: list) -> list:
    return [100 * jiwer.wer(references, hypotheses), 100 * jiwer.cer(references, hypotheses)]
