"""Where a run has warmed up, and whether it drifts afterwards: both found in the series, neither assumed.

Warm-up: MSER-5 (White, Cobb and Spratt, Winter Simulation Conference 2000; recommended by Hoad, Robinson and Davies, 2010): means of five
observations, cut where the standard error of what remains is least. A cut that falls into the second half says: it never settled.
Drift: Mann and Kendall's test for a trend over windows, with Sen's slope for its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from onecard.evidence.results import RequestRecord
from onecard.evidence.summaries import latency_ms, percentile

BATCH = 5
FEWEST_BATCHES = 10  # with fewer means the least standard error falls anywhere
WINDOWS = 20
SURE = 0.05


@dataclass(frozen=True)
class WarmUp:
    """`cut`: so many observations at the begin are warm-up. `settled`: False when the series never settled, None when it is too short."""

    cut: int
    settled: bool | None

    @property
    def sentence(self) -> str:
        if self.settled is None:
            return f"too few requests to find a warm-up (MSER-{BATCH} needs {BATCH * FEWEST_BATCHES})"
        if not self.settled:
            return f"never settled: MSER-{BATCH} cuts in the second half"
        return f"warm-up: the first {self.cut} requests (MSER-{BATCH})"


def warm_up(values: Sequence[float]) -> WarmUp:
    """MSER-5 over a series in the order of time."""
    means = [math.fsum(values[at : at + BATCH]) / BATCH for at in range(0, len(values) - BATCH + 1, BATCH)]
    if len(means) < FEWEST_BATCHES:
        return WarmUp(0, None)
    cut = _least_standard_error(means)
    # Beyond half of the series too few means remain to call them steady (White and Robinson, 2010).
    return WarmUp(cut * BATCH, True) if cut <= len(means) // 2 else WarmUp(0, False)


def _least_standard_error(means: Sequence[float]) -> int:
    """The d that minimises sum((y - mean)^2) / (n - d)^2 over the means after the d-th; the last five cuts are left out."""
    best, cut = math.inf, 0
    middle, spread = 0.0, 0.0  # Welford's, from the end, so that every suffix costs one step
    for at in range(len(means) - 1, -1, -1):
        count = len(means) - at
        off = means[at] - middle
        middle += off / count
        spread += off * (means[at] - middle)
        error = spread / count**2
        # Rounding must not choose between equal cuts: of those the longest remainder is kept.
        if count >= BATCH and error <= best * (1 + 1e-12) + 1e-300:
            best, cut = min(error, best), at
    return cut


def steady_part(requests: Sequence[RequestRecord]) -> tuple[list[RequestRecord], WarmUp]:
    """Requests after the warm-up, in the order of their intended start. Those that failed count neither way and stay."""
    ordered = sorted(requests, key=lambda request: request.intended_s)
    answered = [request for request in ordered if request.outcome == "ok"]
    found = warm_up([latency_ms(request) for request in answered])
    if not found.cut:
        return ordered, found
    begin_s = answered[found.cut].intended_s
    return [request for request in ordered if request.intended_s >= begin_s], found


@dataclass(frozen=True)
class Drift:
    """A trend over a run: how much the value changes from begin to end, as a share of its median, and how likely chance does it."""

    change: float
    p_value: float

    @property
    def sure(self) -> bool:
        return self.p_value < SURE


def drift(at_s: Sequence[float], values: Sequence[float]) -> Drift | None:
    """Mann and Kendall's test and Sen's slope over paired moments and values; None for fewer than 8 or a median of 0."""
    count = len(values)
    middle = percentile(values, 50) if values else 0.0
    if count < 8 or not middle:
        return None
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if at_s[j] > at_s[i]]
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)
    slopes = [(values[j] - values[i]) / (at_s[j] - at_s[i]) for i, j in pairs]
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    normal = max(abs(score) - 1, 0) / deviation
    return (
        Drift(percentile(slopes, 50) * (max(at_s) - min(at_s)) / middle, 2 * (1 - NormalDist().cdf(normal)))
        if slopes
        else None
    )


def windows(requests: Sequence[RequestRecord], number: int = WINDOWS) -> list[tuple[float, list[RequestRecord]]]:
    """Equal spans of time by intended start: the middle of each, seconds, and its requests."""
    if not requests:
        return []
    first, last = min(r.intended_s for r in requests), max(r.intended_s for r in requests)
    width = (last - first) / number or 1.0
    spans: list[list[RequestRecord]] = [[] for _ in range(number)]
    for request in requests:
        spans[min(int((request.intended_s - first) / width), number - 1)].append(request)
    return [(first + (place + 0.5) * width, span) for place, span in enumerate(spans)]
