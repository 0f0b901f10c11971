"""Two answerers on the same questions: the mean of their differences, and how far it could be off by the luck of the questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from onecard.evaluation.record import Record
from onecard.evidence.summaries import percentile

RESAMPLES = 2000
CONFIDENCE_PERCENT = 95.0


class Difference(Record):
    """Ours minus theirs, averaged over the same questions. `low` and `high` are None for fewer than two questions."""

    mean: float
    low: float | None
    high: float | None
    rows: int
    confidence_percent: float = CONFIDENCE_PERCENT


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int) -> Difference:
    """The mean difference with a percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13), the same for the same seed.

    The interval speaks of other questions of this kind. When every question gives the same difference it is a single point, which says
    that these questions cannot tell how much others would vary. ValueError for no values or unequal numbers of them.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} values cannot be paired")
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    rows = len(differences)
    mean = math.fsum(differences) / rows
    if rows < 2:
        return Difference(mean=mean, low=None, high=None, rows=rows)
    draw = Random(seed)
    means = sorted(math.fsum(draw.choices(differences, k=rows)) / rows for _ in range(RESAMPLES))
    tail = (100 - CONFIDENCE_PERCENT) / 2
    return Difference(mean=mean, low=percentile(means, tail), high=percentile(means, 100 - tail), rows=rows)
