"""A whole sweep in figures: for each number of callers the median over the repeats, with the lowest and highest repeat beside it.

The median over repeats is what document A8 asks for; the spread shows whether one more repeat would change the story.
Figures of a single step, and the percentile itself, stand in `onecard.evidence.summaries`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onecard.evidence.results import RequestRecord, ResultFile, Step
from onecard.evidence.summaries import StepSummary, percentile, shown_percentile, summarize

# Above this share of the median latency the generator's own delay is part of the story and the report says so.
LAG_SHARE = 0.10


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest over the repeats."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class CallerPoint:
    """One number of callers. A field is None when no repeat can say."""

    callers: int
    repeats: int
    requests: int
    errors: int
    p50_ms: Spread | None
    p95_ms: Spread | None
    p99_ms: Spread | None
    avg_ms: Spread | None
    ttft_p50_ms: Spread | None
    itl_p50_ms: Spread | None
    rps: Spread | None
    tokens_s: Spread | None
    gpu_mem_gib: Spread | None


def spread(values: Sequence[float | None]) -> Spread | None:
    """Over the values that are known; None when none is."""
    known = [value for value in values if value is not None]
    return Spread(percentile(known, 50), min(known), max(known)) if known else None


def caller_points(steps: Sequence[Step]) -> list[CallerPoint]:
    """The steps grouped by callers, fewest first."""
    return [caller_point([step for step in steps if step.callers == c]) for c in sorted({s.callers for s in steps})]


def caller_point(repeats: Sequence[Step]) -> CallerPoint:
    """Several repeats of one number of callers."""
    summaries = [summarize(step) for step in repeats]

    def over(pick: str) -> Spread | None:
        return spread([getattr(summary, pick) for summary in summaries])

    return CallerPoint(
        callers=repeats[0].callers,
        repeats=len(repeats),
        requests=sum(s.requests for s in summaries),
        errors=sum(s.errors for s in summaries),
        p50_ms=over("p50_ms"),
        p95_ms=over("p95_ms"),
        p99_ms=over("p99_ms"),
        avg_ms=over("avg_ms"),
        ttft_p50_ms=over("ttft_p50_ms"),
        itl_p50_ms=over("itl_p50_ms"),
        rps=over("rps"),
        tokens_s=over("tokens_s"),
        gpu_mem_gib=over("gpu_mem_gib"),
    )


def pooled(
    steps: Sequence[Step], values_of: Callable[[Sequence[RequestRecord]], list[float]]
) -> dict[int, list[float]]:
    """What `values_of` finds in the answered requests of all repeats, by callers; callers without any are left out."""
    found: dict[int, list[float]] = {}
    for step in sorted(steps, key=lambda s: s.callers):
        found.setdefault(step.callers, []).extend(values_of([r for r in step.requests if r.outcome == "ok"]))
    return {callers: values for callers, values in found.items() if values}


def outcome_counts(result: ResultFile) -> dict[str, int]:
    """How many requests ended how, most frequent first."""
    counts: dict[str, int] = {}
    for step in result.steps:
        for request in step.requests:
            counts[request.outcome] = counts.get(request.outcome, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def answered_by(result: ResultFile) -> dict[tuple[str, str | None, str | None], int]:
    """Answered requests by (agent, preset, adapter that answered)."""
    counts: dict[tuple[str, str | None, str | None], int] = {}
    for step in result.steps:
        for request in step.requests:
            if request.outcome == "ok":
                key = (request.agent, request.preset, request.adapter)
                counts[key] = counts.get(key, 0) + 1
    return counts


def caution(result: ResultFile) -> str | None:
    """A sentence when the generator's own delay is too large a part of what it measured, else None.

    Its delay is the worse of two: requests sent later than intended, and the event loop waking later than asked.
    """
    worst: tuple[float, int] = (0.0, 0)
    for step in result.steps:
        summary = summarize(step)
        late = _own_delay_ms(step, summary)
        if summary.p50_ms and late / summary.p50_ms > worst[0]:
            worst = (late / summary.p50_ms, step.callers)
    share, callers = worst
    if share <= LAG_SHARE:
        return None
    return (
        f"The load generator's own delay reached {share:.0%} of the median latency with {callers} at once: "
        "send the load from another machine, or leave a core free."
    )


def _own_delay_ms(step: Step, summary: StepSummary) -> float:
    late = [(r.sent_s - r.intended_s) * 1e3 for r in step.requests]
    return max(shown_percentile(late, 95) or summary.lag_max_ms or 0.0, step.loop_lag_p99_ms or 0.0)
