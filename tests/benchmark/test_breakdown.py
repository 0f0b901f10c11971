"""One step seen closely: intervals, goodput, agents apart, and a run that our own clockwork spoilt."""

from __future__ import annotations

from typing import Any

import pytest

from onecard.benchmark.breakdown import generator_verdict, goodput, part, parts_by_agent
from onecard.evidence.results import RequestRecord, Step


def request(at_s: float, latency_s: float = 0.1, **changes: Any) -> RequestRecord:
    times = {"intended_s": at_s, "sent_s": at_s, "end_s": at_s + latency_s}
    return RequestRecord.model_validate({"caller": 0, "prompt": 0, "agent": "a", "outcome": "ok", **times, **changes})


def step(*requests: RequestRecord, **changes: Any) -> Step:
    return Step.model_validate({"callers": 1, "repeat": 1, "started_at": "", "requests": requests, **changes})


def test_a_generator_on_time_is_valid_and_a_late_one_is_not() -> None:
    fine = generator_verdict(step(*(request(n * 0.2) for n in range(50)), loop_lag_p99_ms=1.0))
    assert fine.valid and fine.sentence is None and fine.sent_rps == pytest.approx(5)
    late = generator_verdict(step(*(request(n * 0.2, sent_s=n * 0.2 + 0.05) for n in range(50))))
    assert not late.valid and late.late_p99_ms == pytest.approx(50) and "INVALID" in (late.sentence or "")
    asleep = generator_verdict(step(*(request(n * 0.2) for n in range(50)), loop_lag_p99_ms=30.0))
    assert not asleep.valid and asleep.allowed_ms == pytest.approx(10)


def test_a_harmless_lag_is_not_held_against_a_fast_server() -> None:
    assert generator_verdict(step(*(request(n * 0.2, 0.001) for n in range(50)), loop_lag_p99_ms=1.5)).valid
    assert generator_verdict(step()).valid


def test_goodput_counts_failures_as_late() -> None:
    requests = [request(n, 0.1 if n % 4 else 0.9, deadline_ms=500) for n in range(40)]
    requests[1] = request(1, 0.1, deadline_ms=500, outcome="refused")
    found = goodput(requests, 40)
    assert found is not None
    assert (found.within, found.count, found.rps) == (29, 40, 29 / 40)
    assert found.low < found.share < found.high
    assert goodput([request(0)], 1) is None


def test_agents_are_told_apart_and_together() -> None:
    requests = [request(n, 0.1 if n % 2 else 0.4, agent="ab"[n % 2], adapter=f"style-{n % 2}@v1") for n in range(40)]
    first, second, everything = parts_by_agent([step(*requests)])
    assert (first.name, second.name, everything.name) == ("a", "b", "all")
    assert first.latency[50.0] is not None and first.latency[50.0].value == pytest.approx(400)
    assert second.latency[50.0] is not None and second.latency[50.0].value == pytest.approx(100)
    assert first.adapters == ("style-0@v1",) and everything.requests == 40
    assert first.latency[99.0] is not None and not first.latency[99.0].enough
    assert part("none", [], 0).latency[50.0] is None
