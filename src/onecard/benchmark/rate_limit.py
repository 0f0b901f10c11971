"""The largest rate a service keeps within a deadline, between two bounds, from few probes.

Pure: `next_rate` looks at the probes so far and says which rate to try, `verdict` judges one probe. A probe keeps the deadline when so
many percent of its requests were in time with confidence (Clopper and Pearson's exact bounds, failures are late); it misses it when too
few were, with confidence, or when latency rose to the end; anything else is undecided, and counts as neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from onecard.benchmark.intervals import CONFIDENCE, share_bounds
from onecard.benchmark.steady_state import drift, warm_up, windows
from onecard.evidence.results import RequestRecord
from onecard.evidence.summaries import latency_ms, percentile

Verdict = Literal["kept", "missed", "undecided"]
FASTER = 1.6  # how far a probe goes beyond what was seen, while only one side is known


@dataclass(frozen=True)
class Probe:
    """One rate that was tried: of `count` requests, `within` were in time. `fair`: the generator itself was on time."""

    rate_rps: float
    within: int
    count: int
    verdict: Verdict
    fair: bool = True
    growing: bool = False


@dataclass(frozen=True)
class Limit:
    """The largest rate lies between `low_rps` (kept; None: none was) and `high_rps` (missed; None: none was)."""

    low_rps: float | None
    high_rps: float | None
    probes: tuple[Probe, ...]


def verdict(within: int, count: int, percent: float, confidence: float = CONFIDENCE) -> Verdict:
    """Whether the share in time is above, below or not told from `percent`."""
    if not count:
        return "undecided"
    low, high = share_bounds(within, count, confidence)
    return "kept" if low >= percent / 100 else "missed" if high < percent / 100 else "undecided"


def needed_to_keep(percent: float, confidence: float = CONFIDENCE) -> int:
    """Requests, all in time, that it takes to say "kept": p50 6, p95 72, p99 368."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log(percent / 100))


def hopeless(late: int, requests: int, percent: float) -> bool:
    """Whether the probe misses whatever becomes of the rest of its `requests`: it need not be sent any more."""
    return verdict(requests - late, requests, percent) == "missed"


def in_time(requests: Sequence[RequestRecord], deadline_ms: float) -> int:
    """Answered requests whose last token came within the deadline from their intended start."""
    return sum(1 for request in requests if request.outcome == "ok" and latency_ms(request) <= deadline_ms)


def still_growing(requests: Sequence[RequestRecord]) -> bool:
    """Whether latency rose as long as requests came: more arrive than are answered, however many were in time so far.

    Both must say so: the series never settled (MSER-5), and its windows rise (Mann and Kendall, 1%).
    """
    answered = sorted((r for r in requests if r.outcome == "ok"), key=lambda request: request.intended_s)
    if warm_up([latency_ms(request) for request in answered]).settled is not False:
        return False
    spans = [(at_s, span) for at_s, span in windows(answered, 10) if span]
    rise = drift([at_s for at_s, _ in spans], [percentile([latency_ms(r) for r in span], 50) for _, span in spans])
    return rise is not None and rise.change > 0 and rise.p_value < 0.01


def limit_of(probes: Sequence[Probe]) -> Limit:
    """The bounds that the probes give. A missed rate below a kept one (noise) counts: what is promised must have been kept below it."""
    fair = [probe for probe in probes if probe.fair]
    missed = min((p.rate_rps for p in fair if p.verdict == "missed"), default=None)
    kept = [p.rate_rps for p in fair if p.verdict == "kept" and (missed is None or p.rate_rps < missed)]
    return Limit(max(kept, default=None), missed, tuple(probes))


def next_rate(probes: Sequence[Probe], guess_rps: float, precision: float, most: int) -> float | None:
    """The rate to try next; None when the bounds are within `precision` of each other, or `most` probes were made.

    While one side is unknown it goes a factor beyond; between two bounds it takes the geometric middle, a little off where that rate was
    tried and stayed undecided: to try the same again would spend the probe on the same question.
    """
    if not probes:
        return guess_rps
    if len(probes) >= most:
        return None
    found = limit_of(probes)
    tried = [probe.rate_rps for probe in probes if probe.fair]
    if not probes[-1].fair:
        # What the generator spoilt is tried again, but not for ever: then it is the generator's limit and not the server's.
        return None if len(probes) >= 3 and not any(p.fair for p in probes[-3:]) else probes[-1].rate_rps
    if found.low_rps is None and found.high_rps is None:
        return min(tried) / FASTER
    if found.high_rps is None:
        return max(tried) * FASTER
    if found.low_rps is None:
        return min(tried) / FASTER
    if found.high_rps / found.low_rps <= 1 + precision:
        return None
    return _widest_gap(
        sorted({found.low_rps, found.high_rps, *(t for t in tried if found.low_rps < t < found.high_rps)}), precision
    )


def _widest_gap(rates: Sequence[float], precision: float) -> float | None:
    """The geometric middle of the widest gap; None when all are narrower than the precision, and more probes would say nothing new."""
    wide, low, high = max((high / low, low, high) for low, high in pairwise(rates))
    return math.sqrt(low * high) if wide > 1 + precision else None
