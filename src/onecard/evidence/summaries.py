"""What a step amounts to, computed from its requests: latency percentiles, time to first token, throughput, errors.

The percentile of the whole project stands here: linear interpolation between the two nearest observations (numpy's and pandas' default,
Hyndman and Fan's type 7). A percentile is shown only when at least one observation is expected above it: see `enough_for`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onecard.evidence.results import RequestRecord, Step

GIB = 1024**3


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of `values` lie, linearly interpolated. ValueError for no values or a percent outside 0..100."""
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"percentile {percent} of {len(values)} values does not exist")
    ordered = sorted(values)
    place = (len(ordered) - 1) * (percent / 100)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    share = place - below
    step = ordered[above] - ordered[below]
    # From the nearer side, as numpy does, so that the result never leaves the two neighbours.
    return ordered[below] + step * share if share < 0.5 else ordered[above] - step * (1 - share)


def enough_for(percent: float, count: int) -> bool:
    """Whether `count` observations carry that percentile: at least one is expected above it (p50: 2, p95: 20, p99: 100)."""
    return count >= needed_for(percent)


def needed_for(percent: float) -> int:
    """The least number of observations `enough_for` accepts; percent below 100."""
    return math.ceil(round(100 / (100 - percent), 6))


def shown_percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile, or None when there are too few values to say."""
    return percentile(values, percent) if enough_for(percent, len(values)) else None


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class StepSummary:
    """One row of the CSV. Latencies are of answered requests, from their intended start; None: unknown or too few requests to say."""

    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    avg_ms: float | None
    ttft_p50_ms: float | None
    itl_p50_ms: float | None
    rps: float | None
    tokens_s: float | None
    gpu_mem_gib: float | None
    lag_max_ms: float | None


def summarize(step: Step) -> StepSummary:
    """A step in figures. Throughput counts answered requests from the first intended start to the last end."""
    answered = [request for request in step.requests if request.outcome == "ok"]
    latencies = [latency_ms(request) for request in answered]
    seconds = duration_s(step)
    tokens = [request.new_tokens for request in answered]
    counted = [count for count in tokens if count is not None]
    memory = [sample.bytes for sample in step.memory]
    return StepSummary(
        requests=len(step.requests),
        errors=len(step.requests) - len(answered),
        p50_ms=shown_percentile(latencies, 50),
        p95_ms=shown_percentile(latencies, 95),
        p99_ms=shown_percentile(latencies, 99),
        avg_ms=mean(latencies),
        ttft_p50_ms=shown_percentile(ttfts_ms(answered), 50),
        itl_p50_ms=shown_percentile(itls_ms(answered), 50),
        rps=len(answered) / seconds if seconds else None,
        # A server that counts only some answers would make this too low, so then there is no figure at all.
        tokens_s=sum(counted) / seconds if seconds and counted and len(counted) == len(tokens) else None,
        gpu_mem_gib=max(memory) / GIB if memory else None,
        lag_max_ms=max(((request.sent_s - request.intended_s) * 1e3 for request in step.requests), default=None),
    )


def latency_ms(request: RequestRecord) -> float:
    """From the intended start to the end of the answer."""
    return (request.end_s - request.intended_s) * 1e3


def ttfts_ms(requests: Sequence[RequestRecord]) -> list[float]:
    """Times to first token from the intended start, of the requests that were streamed."""
    return [(r.first_token_s - r.intended_s) * 1e3 for r in requests if r.first_token_s is not None]


def itls_ms(requests: Sequence[RequestRecord]) -> list[float]:
    """Gaps between successive pieces of every answer, pooled: the inter-token latency when a piece is a token."""
    gaps = []
    for request in requests:
        gaps += [(b - a) * 1e3 for a, b in pairwise(request.pieces_s)]
    return gaps


def duration_s(step: Step) -> float:
    """From the first intended start to the last end, seconds; 0 for no requests."""
    if not step.requests:
        return 0.0
    return max(r.end_s for r in step.requests) - min(r.intended_s for r in step.requests)
