"""How sure a predicted time is: the probability that it stays below a limit, and the limit that goes with a probability.

A predicted time is its expected (median) value times an unknown factor. The factor is lognormal with a spread of its own on either
side, so that `Seconds.low` is its 5% quantile and `Seconds.high` its 95% quantile, whatever the engine's range is.
"""

from __future__ import annotations

from math import exp, inf, log
from statistics import NormalDist
from typing import Literal

from onecard.planner.engine_facts import Range
from onecard.planner.speed import Seconds

Verdict = Literal["meets", "misses", "unclear", "unknown"]

LOW_QUANTILE, HIGH_QUANTILE = 0.05, 0.95
SURE, UNLIKELY = 0.95, 0.05  # a probability from SURE on meets a deadline, one up to UNLIKELY misses it

_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(HIGH_QUANTILE)
_ROUNDING = 1e-9  # a range whose high end is the deadline meets it


def chance(seconds: Seconds, within_s: float) -> float:
    """Probability that the true time is at most `within_s`: 0.05 at the low end of the range, 0.5 at expected, 0.95 at the high end."""
    if within_s <= 0 or seconds.expected <= 0:
        return float(within_s > 0)
    if seconds.expected == inf:
        return 0.0
    distance = log(within_s) - log(seconds.expected)
    end = seconds.high if distance > 0 else seconds.low
    spread = _log_distance(end, seconds.expected) / _Z
    if spread == 0:
        return float(distance >= 0)
    return _NORMAL.cdf(distance / spread)


def limit(seconds: Seconds, probability: float) -> float:
    """The time that is kept with this probability, seconds: the inverse of `chance`. ValueError outside 0..1, both ends excluded."""
    if not 0 < probability < 1:
        raise ValueError(f"a probability of {probability} has no limit")
    distance = _NORMAL.inv_cdf(probability)
    end = seconds.high if distance > 0 else seconds.low
    return seconds.expected * exp(distance * _log_distance(end, seconds.expected) / _Z)


def verdict(probability: float | None) -> Verdict:
    """meets from 95% on, misses up to 5%, unclear between them, unknown without a probability."""
    if probability is None:
        return "unknown"
    if probability >= SURE - _ROUNDING:
        return "meets"
    return "misses" if probability <= UNLIKELY + _ROUNDING else "unclear"


def widened(factors: Range, by: Range) -> Range:
    """The range of the product of two independent factors: logarithms add in quadrature, each side for itself."""
    low = (log(factors.low) ** 2 + log(by.low) ** 2) ** 0.5
    high = (log(factors.high) ** 2 + log(by.high) ** 2) ** 0.5
    return Range(exp(-low), exp(high))


def spread_range(spread: float) -> Range:
    """The range of a lognormal factor around 1 whose logarithm has this standard deviation."""
    return Range(exp(-_Z * spread), exp(_Z * spread))


def _log_distance(end: float, expected: float) -> float:
    if expected <= 0 or end <= 0 or inf in (end, expected):
        return 0.0
    return abs(log(end) - log(expected))
