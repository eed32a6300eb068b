"""A scorer: the share of sentences that are right."""

COLUMNS = ["right %"]


def score(references: list, hypotheses: list) -> list:
    return [100 * sum(map(str.__eq__, references, hypotheses)) / len(references)]
