"""What samples amount to: windows, deadlines, curves, tokens a second. Pure, so the clock is a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.serving.recent import KEPT, RATE_S, STEP_S, WINDOW_S, Recent, Sample, figures

NOW_S = 10_000.0


def answered(ago_s: float, seconds: float, tokens: int = 0, queue_s: float = 0.0) -> Sample:
    return Sample(NOW_S - ago_s, seconds, "answered", queue_s, tokens)


def test_nothing_is_said_of_nothing() -> None:
    said = figures([], NOW_S, 1.0)
    assert (said.p50_s, said.p95_s, said.in_time, said.judged, said.tokens_s) == (None, None, 0, 0, 0)
    assert set(said.median_curve_s) == {None} and len(said.median_curve_s) == WINDOW_S / STEP_S


def test_a_deadline_counts_what_failed_and_not_what_was_the_clients_own() -> None:
    others = [Sample(NOW_S - 1, 0.1, outcome) for outcome in ("failed", "refused", "left")]
    said = figures([answered(1, 0.5), answered(2, 1.0), answered(3, 1.5), *others], NOW_S, 1.0)
    assert (said.in_time, said.judged, said.answered, said.failed) == (2, 4, 3, 1)
    assert said.p50_s == 1.0  # of the answered ones alone
    assert figures([answered(1, 0.5)], NOW_S).in_time is None


def test_what_is_older_than_the_window_is_forgotten() -> None:
    said = figures([answered(WINDOW_S + 1, 99.0), answered(1, 0.5), answered(1, 0.5)], NOW_S, 1.0)
    assert (said.answered, said.p50_s, said.judged) == (2, 0.5, 2)


def test_a_percentile_waits_for_enough_answers() -> None:
    assert figures([answered(1, 0.5)], NOW_S).p50_s is None
    assert figures([answered(1, 0.5)] * 19, NOW_S).p95_s is None
    assert figures([answered(1, 0.5, queue_s=0.25)] * 20, NOW_S).queue_p95_s == 0.25


def test_tokens_count_where_they_were_made() -> None:
    whole = figures([answered(5, 10.0, tokens=120)], NOW_S).tokens_s
    half = figures([answered(RATE_S - 5, 10.0, tokens=120)], NOW_S).tokens_s
    assert (whole, half) == (120 / RATE_S, 60 / RATE_S)
    assert figures([answered(RATE_S + 1, 10.0, tokens=120)], NOW_S).tokens_s == 0


def test_the_curve_has_a_place_for_every_step_oldest_first() -> None:
    said = figures([answered(0, 1.0), answered(STEP_S, 2.0), answered(STEP_S, 4.0)], NOW_S)
    assert said.median_curve_s[-2:] == (3.0, 1.0) and said.slowest_curve_s[-2:] == (4.0, 1.0)
    assert set(said.median_curve_s[:-2]) == {None}


@given(
    st.lists(
        st.builds(
            Sample,
            ended_s=st.floats(NOW_S - 2 * WINDOW_S, NOW_S),
            seconds=st.floats(0, 1000),
            outcome=st.sampled_from(["answered", "failed", "refused", "left"]),
            tokens=st.integers(0, 10_000),
        ),
        max_size=60,
    ),
    st.floats(0.001, 100),
)
def test_figures_never_contradict_themselves(samples: list[Sample], deadline_s: float) -> None:
    said = figures(samples, NOW_S, deadline_s)
    assert said.in_time is not None and 0 <= said.in_time <= said.answered
    assert said.judged == said.answered + said.failed <= len(samples)
    assert 0 <= said.tokens_s <= sum(one.tokens for one in samples) / RATE_S + 1e-3
    for median, slowest in zip(said.median_curve_s, said.slowest_curve_s, strict=True):
        assert (median is None) == (slowest is None)
        assert median is None or slowest is None or median <= slowest


def test_an_agents_samples_are_bounded_and_its_counts_are_not() -> None:
    recent = Recent()
    for _ in range(KEPT + 5):
        recent.add("explainer", answered(0, 0.1))
    recent.add("clerk", Sample(NOW_S, 0.1, "failed"))
    assert len(recent.of("explainer")) == KEPT and len(recent.of()) == KEPT + 1
    assert recent.counts("explainer") == {"answered": KEPT + 5} and recent.counts("clerk") == {"failed": 1}
    assert recent.of("nobody") == [] and recent.counts("nobody") == {}


@pytest.mark.parametrize("seconds", [0.0, 1e-12])
def test_an_answer_that_took_no_time_has_all_its_tokens(seconds: float) -> None:
    assert figures([answered(1, seconds, tokens=6)], NOW_S).tokens_s == pytest.approx(6 / RATE_S)
