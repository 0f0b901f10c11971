"""Two answerers on the same questions: the mean of their differences, how far it could be off by the luck of the questions, and
whether that is enough to call one of them better, or no worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from statistics import NormalDist
from typing import Literal

from onecard.evaluation.record import Record
from onecard.evidence.summaries import percentile

RESAMPLES = 2000
CONFIDENCE_PERCENT = 95.0
FEWEST_ROWS = (
    20  # below this a bootstrap interval of a mean is too narrow to decide anything (Hesterberg 2015, figure 7)
)

Outcome = Literal["passed", "failed", "undecided"]


class Difference(Record):
    """Ours minus theirs, averaged over the same questions. `low` and `high` are None for fewer than two questions."""

    mean: float
    low: float | None
    high: float | None
    rows: int
    confidence_percent: float = CONFIDENCE_PERCENT


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int) -> Difference:
    """The mean difference with a percentile bootstrap interval, the same for the same seed.

    Rows are drawn in pairs, so what makes a question hard for both cancels out (Efron and Tibshirani 1993, chapter 13). The percentiles
    are moved outwards as far as Student's t lies outside the normal curve, without which the interval is too narrow for few rows
    (Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015: expanded percentile interval). When
    every value is 0 or 1 it is widened to Agresti and Min's interval for matched proportions (Statistics in Medicine 24, 2005): thirty
    rows without a difference do not prove that there is none. Other values that all differ by the same give a single point, which says
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
    tail = expanded_tail_percent(rows)
    low, high = percentile(means, tail), percentile(means, 100 - tail)
    if {*ours, *theirs} <= {0.0, 1.0}:
        smooth_low, smooth_high = matched_proportions(differences)
        low, high = min(low, smooth_low), max(high, smooth_high)
    return Difference(mean=mean, low=low, high=high, rows=rows)


def expanded_tail_percent(rows: int) -> float:
    """Percent of the bootstrap means left out on each side: normal(-sqrt(n / (n - 1)) t), t Student's quantile for n - 1 degrees.

    The quantile by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5), within 1% from 5 rows on.

    >>> round(expanded_tail_percent(20), 2), round(expanded_tail_percent(100_000), 2)
    (1.59, 2.5)
    """
    z, freedom = -NormalDist().inv_cdf((100 - CONFIDENCE_PERCENT) / 200), rows - 1
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    t = z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
    return 100 * NormalDist().cdf(-math.sqrt(rows / freedom) * t)


def matched_proportions(differences: Sequence[float]) -> tuple[float, float]:
    """Agresti and Min's 95% interval for the difference of two matched shares: Wald's after half a pair in each of the four cells.

    >>> low, high = matched_proportions([0.0] * 30)
    >>> round(low, 3), round(high, 3)
    (-0.061, 0.061)
    """
    rows = len(differences) + 2
    better = sum(d > 0 for d in differences) + 0.5
    worse = sum(d < 0 for d in differences) + 0.5
    middle = (better - worse) / rows
    z = -NormalDist().inv_cdf((100 - CONFIDENCE_PERCENT) / 200)
    half = z * math.sqrt(better + worse - (better - worse) ** 2 / rows) / rows
    return middle - half, middle + half


def gain(difference: Difference, more_is_better: bool) -> Difference:
    """The difference turned so that positive is an improvement."""
    if more_is_better or difference.low is None or difference.high is None:
        return difference if more_is_better else difference.model_copy(update={"mean": -difference.mean})
    return difference.model_copy(update={"mean": -difference.mean, "low": -difference.high, "high": -difference.low})


def no_worse(improvement: Difference, margin: float) -> Outcome:
    """Non-inferiority: passed when the whole interval lies above -margin, failed when it lies below, else the rows cannot tell.

    At most 2.5% of candidates that are worse by the margin or more pass (one side of the 95% interval). Piaggio et al., Reporting of
    Noninferiority and Equivalence Randomized Trials, JAMA 308 (2012), draws these very cases.
    """
    if improvement.low is None or improvement.high is None or improvement.rows < FEWEST_ROWS:
        return "undecided"
    if improvement.low >= -margin:
        return "passed"
    return "failed" if improvement.high < -margin else "undecided"


def better(improvement: Difference) -> Outcome:
    """Superiority: passed when the whole interval lies above 0, failed when no part of it does, else the rows cannot tell."""
    if improvement.low is None or improvement.high is None or improvement.rows < FEWEST_ROWS:
        return "undecided"
    if improvement.low > 0:
        return "passed"
    return "failed" if improvement.high <= 0 else "undecided"
