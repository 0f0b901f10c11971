"""A sweep's figures by callers: medians over the repeats with their spread, and an honest word about the generator's own delay."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.statistics import Spread, answered_by, caller_points, caution, outcome_counts, pooled, spread
from onecard.evidence.results import ResultFile, Step
from onecard.evidence.summaries import summarize, ttfts_ms

Make = Callable[..., ResultFile]


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=12))
def test_the_spread_ignores_what_is_not_known(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    found = spread(values)
    if not known:
        assert found is None
        return
    assert found is not None
    assert found.median == pytest.approx(median(known))
    assert (found.low, found.high) == (min(known), max(known))


def test_points_are_medians_over_the_repeats(make_result: Make) -> None:
    result = make_result(callers=(2, 1), repeats=3)
    first, second = caller_points(result.steps)
    assert (first.callers, first.repeats, first.requests, first.errors) == (1, 3, 3 * 24, 0)
    assert (second.callers, second.requests) == (2, 3 * 48)
    p50s = [summarize(step).p50_ms for step in result.steps if step.callers == 2]
    assert second.p50_ms == Spread(median(p50s), min(p50s), max(p50s))  # type: ignore[type-var, arg-type]
    assert first.p99_ms is None
    assert first.gpu_mem_gib == Spread(1, 1, 1)


def test_pooled_values_cover_all_repeats_and_only_answers(make_result: Make) -> None:
    result = make_result(callers=(1, 2), repeats=2, requests=5)
    failed = [request.model_copy(update={"outcome": "error"}) for request in result.steps[0].requests]
    steps = [result.steps[0].model_copy(update={"requests": tuple(failed)}), *result.steps[1:]]
    assert {callers: len(values) for callers, values in pooled(steps, ttfts_ms).items()} == {1: 5, 2: 20}


def test_counts_by_outcome_and_by_who_answered(make_result: Make) -> None:
    result = make_result(callers=(1,), repeats=1, requests=4)
    rows = list(result.steps[0].requests)
    rows[0] = rows[0].model_copy(update={"outcome": "timeout"})
    result = result.model_copy(update={"steps": (result.steps[0].model_copy(update={"requests": tuple(rows)}),)})
    assert outcome_counts(result) == {"ok": 3, "timeout": 1}
    assert answered_by(result) == {("explainer", "terse", "style@v0001"): 3}


@pytest.mark.parametrize(("lag_ms", "said"), [(0.1, False), (2.0, False), (30.0, True)])
def test_a_generator_that_was_slow_itself_says_so(make_result: Make, lag_ms: float, said: bool) -> None:
    result = make_result(callers=(1,), repeats=1)
    step: Any = result.steps[0].model_copy(update={"loop_lag_p99_ms": lag_ms})
    found = caution(result.model_copy(update={"steps": (step,)}))
    assert (found is not None) == said
    assert found is None or "own delay" in found


def test_requests_that_left_late_count_as_own_delay(make_result: Make) -> None:
    result = make_result(callers=(1,), repeats=1)
    late = [r.model_copy(update={"sent_s": r.intended_s + 0.02}) for r in result.steps[0].requests]
    assert caution(result.model_copy(update={"steps": (result.steps[0].model_copy(update={"requests": tuple(late)}),)}))
    assert caution(result.model_copy(update={"steps": (Step(callers=1, repeat=1, started_at=""),)})) is None
