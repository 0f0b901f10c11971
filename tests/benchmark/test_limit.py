"""The search for the largest rate against a server whose limit is known: so many slots, so long each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onecard.benchmark import breakdown
from onecard.benchmark.arrivals import parse_arrivals
from onecard.benchmark.limit import LimitPlan, LimitSearch, limit_in
from onecard.benchmark.prompts import given_prompts
from onecard.errors import InputError

Serve = Callable[..., Any]


@pytest.fixture(autouse=True)
def on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share their machine: how late we are ourselves is another test's business."""
    monkeypatch.setattr(breakdown, "HARMLESS_MS", 1e6)


def plan(url: str, **changes: Any) -> LimitPlan:
    given = {"url": url, "prompts": {"explainer": given_prompts(["x"], "x")}, "shares": {"explainer": 1.0}}
    given |= {"deadline_ms": 600.0, "percentile": 90.0, "requests": 40, "precision": 0.5, "probes": 6}
    return LimitPlan(**{**given, "timeout_s": 20, **changes})


def test_a_known_limit_lies_between_the_bounds(serve: Serve) -> None:
    # Two slots of 0.1 s each: beyond 20 requests a second the queue grows whatever the deadline.
    with serve(ttft_s=0.1, tokens=1, slots=2) as server:
        asked = plan(server.url, arrivals=parse_arrivals("constant:1"), guess_rps=8.0, requests=60)
        search = LimitSearch(asked)
        result = search.run()
    found = search.limit
    assert result.complete and result.kind == "limit"
    assert found.low_rps is not None and found.high_rps is not None
    assert 4 <= found.low_rps <= 20.5 and found.high_rps > 10
    assert limit_in(result.steps, asked) == found
    hopeless = [step for step in result.steps if step.rate_rps and step.rate_rps > 40]
    assert all(len(step.requests) <= 60 for step in hopeless)


def test_without_a_guess_it_begins_with_what_one_caller_gets(serve: Serve) -> None:
    with serve(ttft_s=0.1, tokens=1) as server:
        result = LimitSearch(plan(server.url, probes=1, requests=30)).run()
    assert 1 < (result.steps[0].rate_rps or 0) <= 10


def test_a_generator_that_is_late_is_said_and_not_taken_for_the_server(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakdown, "HARMLESS_MS", 0.0)
    monkeypatch.setattr(breakdown, "LAG_SHARE", 0.0)
    with serve(ttft_s=0.01, tokens=1) as server:
        result = LimitSearch(plan(server.url, guess_rps=100.0)).run()
    assert len(result.steps) == 3 and {step.rate_rps for step in result.steps} == {100.0}
    assert "the load generator itself was late" in (result.stopped_because or "")


def test_a_deadline_is_needed() -> None:
    with pytest.raises(InputError, match="within which deadline"):
        LimitSearch(plan("http://x", deadline_ms=None))
