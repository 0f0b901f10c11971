"""Percentiles are numpy's, are withheld when they would be a guess, and a step's summary counts only what was answered."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.evidence.results import MemorySample, RequestRecord, Step
from onecard.evidence.summaries import enough_for, needed_for, percentile, shown_percentile, summarize

FINITE = st.floats(-1e9, 1e9)


@given(st.lists(FINITE, min_size=1, max_size=300), st.floats(0, 100))
def test_the_percentile_is_numpys_linear_one(values: list[float], percent: float) -> None:
    assert math.isclose(
        percentile(values, percent), float(numpy.percentile(values, percent)), rel_tol=1e-9, abs_tol=1e-9
    )


@given(st.lists(FINITE, min_size=1, max_size=50), st.floats(0, 100))
def test_a_percentile_lies_among_its_values(values: list[float], percent: float) -> None:
    assert min(values) <= percentile(values, percent) <= max(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 100.5)])
def test_a_percentile_of_nothing_does_not_exist(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        percentile(values, percent)


@pytest.mark.parametrize(("percent", "least"), [(50, 2), (95, 20), (99, 100), (99.9, 1000)])
def test_a_percentile_needs_one_observation_above_it(percent: float, least: int) -> None:
    assert needed_for(percent) == least
    assert not enough_for(percent, least - 1)
    assert shown_percentile([1.0] * (least - 1), percent) is None
    assert shown_percentile([1.0] * least, percent) == 1.0


def request(
    caller: int, intended: float, end: float, outcome: str = "ok", pieces: tuple[float, ...] = ()
) -> RequestRecord:
    first = pieces[0] if pieces else None
    return RequestRecord.model_validate(
        {
            "caller": caller,
            "prompt": 0,
            "agent": "a",
            "intended_s": intended,
            "sent_s": intended,
            "end_s": end,
            "outcome": outcome,
            "pieces_s": pieces,
            "first_token_s": first,
            "new_tokens": len(pieces) or None,
        }
    )


def test_a_step_in_figures() -> None:
    step = Step(
        callers=2,
        repeat=1,
        started_at="2026-11-21T12:00:00+00:00",
        memory=(
            MemorySample(moment="before", kind="process", bytes=2**30),
            MemorySample(moment="after", kind="process", bytes=2**31),
        ),
        requests=(
            request(0, 0.0, 1.0, pieces=(0.4, 0.6, 0.7)),
            request(1, 0.0, 3.0, pieces=(1.0, 1.2, 3.0)),
            request(0, 1.0, 4.0, outcome="error"),
        ),
    )
    summary = summarize(step)
    assert (summary.requests, summary.errors) == (3, 1)
    assert summary.p50_ms == pytest.approx(2000)
    assert summary.avg_ms == pytest.approx(2000)
    assert summary.ttft_p50_ms == pytest.approx(700)
    assert summary.itl_p50_ms == pytest.approx(200)  # of 200, 100, 200, 1800
    assert summary.rps == pytest.approx(2 / 4)  # the failed request's time counts, its answer does not
    assert summary.tokens_s == pytest.approx(6 / 4)
    assert summary.gpu_mem_gib == 2
    assert summary.p95_ms is None
    assert summary.p99_ms is None


def test_tokens_that_only_some_answers_count_give_no_rate() -> None:
    counted = request(0, 0.0, 1.0, pieces=(0.5,))
    silent = counted.model_copy(update={"new_tokens": None})
    step = Step(callers=1, repeat=1, started_at="", requests=(counted, silent))
    assert summarize(step).tokens_s is None


def test_a_step_without_answers_has_no_figures_and_no_crash() -> None:
    empty = summarize(Step(callers=1, repeat=1, started_at=""))
    failed = summarize(Step(callers=1, repeat=1, started_at="", requests=(request(0, 0.0, 0.5, outcome="timeout"),)))
    assert (empty.requests, empty.rps, empty.p50_ms, empty.lag_max_ms) == (0, None, None, None)
    assert (failed.errors, failed.rps, failed.avg_ms, failed.tokens_s) == (1, 0.0, None, None)
