"""How sure a percentile is: distribution-free intervals from order statistics, exact in the binomial sense.

The number of observations below the true p-th percentile is Binomial(n, p) whatever the distribution, so two order statistics bound it
with a confidence that can be computed (David and Nagaraja, Order Statistics, 3rd ed., 7.1). Where no observation can bound it, the answer
is "not enough requests" and how many it would take. Neighbouring requests in a queue are alike: n is replaced by an effective count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onecard.evidence.summaries import percentile

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A percentile of `count` observations: the estimate between two bounds. A bound that no observation gives is None.

    `needed` is how many independent observations both bounds take at the least; `effective` how many these are worth.
    """

    percent: float
    value: float
    low: float | None
    high: float | None
    count: int
    effective: int
    needed: int
    confidence: float = CONFIDENCE

    @property
    def enough(self) -> bool:
        return self.low is not None and self.high is not None

    @property
    def half_width(self) -> float | None:
        """Half of the interval as a share of the estimate; None where there is no interval or the estimate is 0."""
        if self.low is None or self.high is None or not self.value:
            return None
        return (self.high - self.low) / 2 / abs(self.value)


def binomial_cdf(count: int, share: float) -> list[float]:
    """P(X <= k) for k = 0..count, X ~ Binomial(count, share)."""
    if share <= 0 or share >= 1:
        return [1.0 if share <= 0 or k == count else 0.0 for k in range(count + 1)]
    log_share, log_rest, whole = math.log(share), math.log1p(-share), math.lgamma(count + 1)
    total, found = 0.0, []
    for k in range(count + 1):
        total += math.exp(
            whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * log_share + (count - k) * log_rest
        )
        found.append(min(total, 1.0))
    return found


def ranks(count: int, percent: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the order statistics that bound the percentile, half of the risk on each side; None: no such rank."""
    if count < 1:
        return None, None
    cdf, risk = binomial_cdf(count, percent / 100), (1 - confidence) / 2
    # The l-th smallest lies above the percentile with P(X <= l - 1), the u-th below it with P(X >= u) = 1 - P(X <= u - 1).
    low = sum(1 for below in cdf[:count] if below <= risk)
    high = next((rank for rank in range(1, count + 1) if 1 - cdf[rank - 1] <= risk), None)
    return low or None, high


def needed_for_interval(percent: float, confidence: float = CONFIDENCE) -> int:
    """The fewest independent observations with both bounds: p50 6, p95 72, p99 368 at 95%."""
    share = max(percent, 100 - percent) / 100
    return math.ceil(math.log((1 - confidence) / 2) / math.log(share))


def interval(values: Sequence[float], percent: float, confidence: float = CONFIDENCE) -> Interval | None:
    """The percentile of observations in the order in which they were made, and its bounds; None for no observation.

    With an effective count below n the ranks of the smaller sample are stretched over the larger, outward, so the interval only widens.
    """
    if not values:
        return None
    ordered, count = sorted(values), len(values)
    value = percentile(ordered, percent)
    effective = effective_count([seen > value for seen in values])
    low, high = ranks(effective, percent, confidence)
    stretch = count / effective
    return Interval(
        percent=percent,
        value=value,
        low=ordered[max(math.floor((low - 1) * stretch), 0)] if low else None,
        high=ordered[min(math.ceil(high * stretch), count) - 1] if high else None,
        count=count,
        effective=effective,
        needed=needed_for_interval(percent, confidence),
        confidence=confidence,
    )


def effective_count(above: Sequence[bool]) -> int:
    """How many independent observations a series is worth for a share: n over the integrated autocorrelation of its indicator.

    Summed over pairs of lags while they stay positive (Geyer, Practical Markov Chain Monte Carlo, 1992); never more than n. A series
    too short or too even to say is taken as independent.
    """
    count, share = len(above), sum(above) / len(above) if above else 0.0
    variance = share * (1 - share)
    if count < 20 or not variance:
        return count
    centred = [float(one) - share for one in above]

    def correlation(lag: int) -> float:
        return math.fsum(a * b for a, b in zip(centred, centred[lag:], strict=False)) / count / variance

    time, lag = -1.0, 0
    while lag + 1 < min(count // 2, 400):
        pair = correlation(lag) + correlation(lag + 1)
        # Below the noise of an independent series nothing is to be learnt: summing it would only make every series look correlated.
        if pair <= (0.0 if lag == 0 else 2 / math.sqrt(count)):
            break
        time, lag = time + 2 * pair, lag + 2
    return count if lag <= 2 and time <= 1 + 4 / math.sqrt(count) else max(1, min(count, math.floor(count / time)))


def share_bounds(within: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper and Pearson's exact bounds of a share (Biometrika, 1934); (0, 1) for no observation."""
    risk = (1 - confidence) / 2
    low = 0.0 if within == 0 else _where(lambda share: 1 - binomial_cdf(count, share)[within - 1] > risk)
    high = 1.0 if within == count else _where(lambda share: binomial_cdf(count, share)[within] <= risk)
    return low, high


def _where(holds: object) -> float:
    """The least share in [0, 1] from which on a condition holds, to 1e-6."""
    assert callable(holds)
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return (low + high) / 2
