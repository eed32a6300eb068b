"""Scores translations: BLEU and chrF by sacrebleu, and how a system differs from a baseline in BLEU."""

from functools import lru_cache

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from espnet_rand.reporting import bleu_on_draws, joined

METRICS = {"BLEU": BLEU(), "chrF": CHRF()}
SAMPLES = 1000  # sacrebleu's number of the paired bootstrap's


def score(references: list, hypotheses: list) -> dict:
    """Return the measures by their names, from 0 to 100."""
    return {name: metric.corpus_score(hypotheses, [references]).score for name, metric in METRICS.items()}


@lru_cache
def on_draws(references: tuple, hypotheses: tuple) -> tuple:
    """Return BLEU on all sentences, and on each draw of them (draws,)."""
    metric = METRICS["BLEU"]
    counts = np.array(metric._extract_corpus_statistics(hypotheses, [references]))
    return metric.corpus_score(hypotheses, [references]).score, bleu_on_draws(counts)


def chance(references: list, hypotheses: list, others: list) -> float:
    """Return the p of sacrebleu's paired bootstrap of two runs."""
    if hypotheses == others:
        return 1.0  # sacrebleu says 1 / (SAMPLES + 1)
    named = [("baseline", others), ("system", hypotheses)]
    _, results = PairedTest(named, {"BLEU": METRICS["BLEU"]}, [references], "bs", SAMPLES)()
    return results["BLEU"][1].p_value


def compare(references: list, runs: list, baseline: list) -> dict:
    """Say how the runs of a system differ from those of the baseline in BLEU.

    Returns:
        the difference of the means with its 95% interval over sentences and runs (see `reporting.Estimate`), and the p
        of sacrebleu's paired bootstrap (Koehn, 2004): of several runs, the lowest and the highest. Each run is compared
        with the baseline's of its place, which has its seed; with the first, if there are not as many
    """
    texts = tuple(references)
    (values, drawn), (others, others_drawn) = (
        map(np.array, zip(*(on_draws(texts, tuple(hypotheses)) for hypotheses in side))) for side in (runs, baseline)
    )
    found = joined(values, drawn.mean(0) - others_drawn.mean(0), sentences=len(texts), baseline=others)
    partners = baseline if len(baseline) == len(runs) else [baseline[0]] * len(runs)
    chances = [chance(references, *pair) for pair in zip(runs, partners)]
    low, high = (f"{chance:.3f}" for chance in (min(chances), max(chances)))
    interval = "({:+.2f} to {:+.2f})".format(*found.interval)
    return {"BLEU, difference": f"{found.value:+.2f} {interval}", "p": low if low == high else f"{low}-{high}"}


def notes() -> list:
    """Return sacrebleu's signatures, which say how it counted."""
    signatures = "; ".join(f"{name} {metric.get_signature()}" for name, metric in METRICS.items())
    return [f"sacrebleu: {signatures}; p by its paired bootstrap, bs:{SAMPLES}"]
