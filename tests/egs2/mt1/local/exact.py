"""A scorer: the share of sentences that are right."""


def score(references: list, hypotheses: list) -> dict:
    return {"right %": 100 * sum(map(str.__eq__, references, hypotheses)) / len(references)}
