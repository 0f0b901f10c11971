"""A long run told in two parts, warm-up and steady state, with its windows and whether anything drifts (document A9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onecard.benchmark.breakdown import Part, part
from onecard.benchmark.steady_state import Drift, WarmUp, drift, steady_part, windows
from onecard.evidence.results import RequestRecord, Step
from onecard.evidence.summaries import GIB, latency_ms, percentile

DRIFTING = {"p50": "median latency", "p90": "p90 of latency", "rps": "answered requests a second"}


@dataclass(frozen=True)
class Window:
    """A twentieth of the steady part: its middle, seconds from the step's begin, and its figures (None: nothing was answered)."""

    at_s: float
    requests: int
    failed: int
    p50_ms: float | None
    p90_ms: float | None
    rps: float


@dataclass(frozen=True)
class Course:
    """A long step. `parts` are warm-up (when one was found) and steady state; `grown_gib` what memory the service took meanwhile."""

    warm_up: WarmUp
    parts: list[Part]
    windows: list[Window]
    drifts: list[tuple[str, Drift | None]]
    grown_gib: float | None

    @property
    def sentences(self) -> list[str]:
        said = [self.warm_up.sentence]
        for name, found in self.drifts:
            if found is not None and found.sure:
                said.append(
                    f"{DRIFTING[name]} drifts by {found.change:+.1%} over the steady part (p = {found.p_value:.2g})"
                )
        if len(said) == 1 and any(found for _, found in self.drifts):
            said.append("no drift is seen in latency or throughput")
        if self.grown_gib:
            said.append(f"the service's memory changed by {self.grown_gib:+.3f} GiB")
        return said


def course_of(step: Step) -> Course:
    """The story of one long step."""
    steady, found = steady_part(step.requests)
    ids = {id(request) for request in steady}
    first = [request for request in step.requests if id(request) not in ids]
    parts = [part("warm-up", first, _span_s(first, steady))] if first else []
    spans = windows(steady)
    width_s = spans[1][0] - spans[0][0] if len(spans) > 1 else 0.0
    seen = [_window(at_s, span, width_s) for at_s, span in spans]
    return Course(
        warm_up=found,
        parts=[*parts, part("steady", steady, _span_s(steady, []))],
        windows=seen,
        drifts=[
            ("p50", _drift([(w.at_s, w.p50_ms) for w in seen])),
            ("p90", _drift([(w.at_s, w.p90_ms) for w in seen])),
            ("rps", _drift([(w.at_s, w.rps) for w in seen])),
        ],
        grown_gib=(step.memory[-1].bytes - step.memory[0].bytes) / GIB if len(step.memory) > 1 else None,
    )


def _span_s(requests: Sequence[RequestRecord], following: Sequence[RequestRecord]) -> float:
    """From the first intended start to the begin of what follows, or to the last end."""
    if not requests:
        return 0.0
    end_s = min((r.intended_s for r in following), default=0.0) or max(r.end_s for r in requests)
    return end_s - min(r.intended_s for r in requests)


def _window(at_s: float, span: Sequence[RequestRecord], width_s: float) -> Window:
    latencies = [latency_ms(request) for request in span if request.outcome == "ok"]
    return Window(
        at_s=at_s,
        requests=len(span),
        failed=len(span) - len(latencies),
        p50_ms=percentile(latencies, 50) if latencies else None,
        p90_ms=percentile(latencies, 90) if latencies else None,
        rps=len(latencies) / width_s if width_s else 0.0,
    )


def _drift(points: Sequence[tuple[float, float | None]]) -> Drift | None:
    known = [(at_s, value) for at_s, value in points if value is not None]
    return drift([at_s for at_s, _ in known], [value for _, value in known])
