from __future__ import annotations

from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.planner.chance import chance, limit, spread_range, verdict, widened
from onecard.planner.engine_facts import Range
from onecard.planner.speed import Seconds

times = st.builds(
    lambda expected, low, high: Seconds(expected * low, expected, expected * high),
    st.floats(1e-6, 1e9),
    st.floats(0.01, 1.0),
    st.floats(1.0, 100.0),
)
limits = st.floats(1e-12, 1e15)


def test_low_and_high_are_the_5_and_95_percent_quantiles() -> None:
    seconds = Seconds(5, 7, 20)  # a range that is wider above than below
    assert chance(seconds, 5) == pytest.approx(0.05)
    assert chance(seconds, 7) == 0.5
    assert chance(seconds, 20) == pytest.approx(0.95)


@given(times, limits, limits)
def test_a_later_limit_is_never_less_probable(seconds: Seconds, one: float, other: float) -> None:
    assert 0 <= chance(seconds, min(one, other)) <= chance(seconds, max(one, other)) <= 1


@given(times, limits)
def test_the_factor_counts_and_not_the_size(seconds: Seconds, within: float) -> None:
    longer = Seconds(seconds.low * 2, seconds.expected * 2, seconds.high * 2)
    assert chance(longer, within * 2) == pytest.approx(chance(seconds, within), abs=1e-9)
    assert chance(longer, within) <= chance(seconds, within) + 1e-12


@given(times.filter(lambda t: t.high > 1.001 * t.expected and t.low < 0.999 * t.expected), st.floats(0.001, 0.999))
def test_the_limit_of_a_probability_has_that_probability(seconds: Seconds, probability: float) -> None:
    assert chance(seconds, limit(seconds, probability)) == pytest.approx(probability, abs=1e-6)


def test_what_is_certain_is_certain() -> None:
    assert [chance(Seconds(3, 3, 3), within) for within in (2.9, 3, 3.1)] == [0, 1, 1]
    assert chance(Seconds(1, 2, 3), 0) == chance(Seconds(1, 2, 3), -1) == 0
    assert chance(Seconds(0, 0, 0), 1e-9) == 1
    assert chance(Seconds(inf, inf, inf), 1e9) == 0
    assert chance(Seconds(1, 2, 3), inf) == 1
    assert limit(Seconds(3, 3, 3), 0.99) == 3


@pytest.mark.parametrize("probability", [0, 1, -0.5, 1.5])
def test_no_time_goes_with_certainty(probability: float) -> None:
    with pytest.raises(ValueError, match="no limit"):
        limit(Seconds(1, 2, 3), probability)


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (None, "unknown"),
        (0, "misses"),
        (0.05, "misses"),
        (0.06, "unclear"),
        (0.949, "unclear"),
        (0.95, "meets"),
        (1, "meets"),
    ],
)
def test_a_verdict_follows_from_the_probability(probability: float | None, said: str) -> None:
    assert verdict(probability) == said


def test_independent_factors_widen_a_range_by_their_squares() -> None:
    assert widened(Range(0.5, 2), Range(1, 1)) == Range(pytest.approx(0.5), pytest.approx(2))
    both = widened(Range(exp(-0.3), exp(0.3)), Range(exp(-0.4), exp(0.4)))
    assert (both.low, both.high) == (pytest.approx(exp(-0.5)), pytest.approx(exp(0.5)))
    assert spread_range(0.1).high == pytest.approx(exp(0.1645), rel=1e-4)
