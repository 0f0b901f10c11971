"""One step seen closely: percentiles with their intervals, what was in time, each agent by itself, and whether our own clockwork held.

Pure functions of the records, so an old file can be asked new questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onecard.benchmark.intervals import Interval, interval, share_bounds
from onecard.benchmark.statistics import LAG_SHARE
from onecard.evidence.results import RequestRecord, Step
from onecard.evidence.summaries import duration_s, latency_ms, percentile, ttfts_ms

PERCENTILES = (50.0, 95.0, 99.0)
# Below this the operating system's own wake-ups are the limit: a lag so small is not held against a fast server.
HARMLESS_MS = 2.0


@dataclass(frozen=True)
class GeneratorVerdict:
    """Whether the load generator was on time. `late_p99_ms`: sent after the intended start; `loop_p99_ms`: its event loop's lag."""

    valid: bool
    late_p99_ms: float
    loop_p99_ms: float
    allowed_ms: float
    sent_rps: float | None = None

    @property
    def sentence(self) -> str | None:
        if self.valid:
            return None
        worst = max(self.late_p99_ms, self.loop_p99_ms)
        return (
            f"INVALID: the load generator itself was {worst:.3g} ms late (p99), more than {self.allowed_ms:.3g} ms "
            "(a tenth of the median latency): send from another machine, leave a core free, or ask for less"
        )


def generator_verdict(step: Step) -> GeneratorVerdict:
    """A step is invalid when its own lag (p99 of sending, or of the event loop) exceeds a tenth of the median latency and 2 ms."""
    answered = [latency_ms(request) for request in step.requests if request.outcome == "ok"]
    late = percentile([(r.sent_s - r.intended_s) * 1e3 for r in step.requests], 99) if step.requests else 0.0
    loop = step.loop_lag_p99_ms or 0.0
    allowed = max(LAG_SHARE * percentile(answered, 50), HARMLESS_MS) if answered else HARMLESS_MS
    span_s = max((r.intended_s for r in step.requests), default=0.0)
    sent = (len(step.requests) - 1) / span_s if span_s > 0 else None
    # With nothing answered there is no latency to spoil; the outcomes are the measurement.
    return GeneratorVerdict(not answered or max(late, loop) <= allowed, late, loop, allowed, sent)


@dataclass(frozen=True)
class Goodput:
    """Requests in time, of all that were meant to be sent; `low` and `high` bound the share exactly (95%)."""

    within: int
    count: int
    rps: float | None
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.within / self.count


def goodput(requests: Sequence[RequestRecord], seconds: float) -> Goodput | None:
    """Over the requests that had a deadline; None where none had. Failures are late."""
    judged = [request for request in requests if request.deadline_ms is not None]
    if not judged:
        return None
    within = sum(1 for r in judged if r.outcome == "ok" and latency_ms(r) <= (r.deadline_ms or 0))
    low, high = share_bounds(within, len(judged))
    return Goodput(within, len(judged), within / seconds if seconds else None, low, high)


@dataclass(frozen=True)
class Part:
    """Some requests of one or several steps in figures; latencies in ms from the intended start, intervals at 95%."""

    name: str
    requests: int
    failed: int
    latency: dict[float, Interval | None]
    ttft: Interval | None
    goodput: Goodput | None
    rps: float | None
    adapters: tuple[str, ...]
    prompt_tokens: float | None


def part(name: str, requests: Sequence[RequestRecord], seconds: float) -> Part:
    """The requests in the order of their intended start."""
    ordered = sorted(requests, key=lambda request: request.intended_s)
    answered = [request for request in ordered if request.outcome == "ok"]
    latencies = [latency_ms(request) for request in answered]
    prompts = [request.prompt_tokens for request in answered if request.prompt_tokens is not None]
    return Part(
        name=name,
        requests=len(ordered),
        failed=len(ordered) - len(answered),
        latency={percent: interval(latencies, percent) for percent in PERCENTILES},
        ttft=interval(ttfts_ms(answered), 50),
        goodput=goodput(ordered, seconds),
        rps=len(answered) / seconds if seconds else None,
        adapters=tuple(sorted({request.adapter for request in answered if request.adapter})),
        prompt_tokens=percentile(prompts, 50) if prompts else None,
    )


def parts_by_agent(steps: Sequence[Step]) -> list[Part]:
    """Each agent over all steps, and all of them together at the end."""
    seconds = sum(duration_s(step) for step in steps)
    everything = [request for step in steps for request in step.requests]
    agents = sorted({request.agent for request in everything})
    parts = [part(agent, [r for r in everything if r.agent == agent], seconds) for agent in agents]
    return parts if len(parts) == 1 else [*parts, part("all", everything, seconds)]
