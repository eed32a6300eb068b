"""Scores speech recognition: word and character error rates by jiwer."""

import jiwer


def score(references: list, hypotheses: list) -> dict:
    """Return the error rates in percent, by their names."""
    return {"WER %": 100 * jiwer.wer(references, hypotheses), "CER %": 100 * jiwer.cer(references, hypotheses)}
