"""Intervals of percentiles: exact against fractions, covering what they promise, and "not enough" where no observation can say."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.benchmark.intervals import (
    binomial_cdf,
    effective_count,
    interval,
    needed_for_interval,
    ranks,
    share_bounds,
)


@given(count=st.integers(1, 60), hundredths=st.integers(1, 99))
def test_the_binomial_is_exact(count: int, hundredths: int) -> None:
    share, total = Fraction(hundredths, 100), Fraction(0)
    for k, found in enumerate(binomial_cdf(count, hundredths / 100)):
        total += math.comb(count, k) * share**k * (1 - share) ** (count - k)
        assert found == pytest.approx(float(total), abs=1e-9)


@given(count=st.integers(1, 400), percent=st.sampled_from([50.0, 90.0, 95.0, 99.0]))
@settings(max_examples=60)
def test_ranks_are_the_tightest_that_keep_the_risk(count: int, percent: float) -> None:
    low, high = ranks(count, percent)
    cdf = [0.0, *binomial_cdf(count, percent / 100)]  # cdf[k] = P(X <= k - 1)
    if low is not None:
        assert cdf[low] <= 0.025 < cdf[low + 1]
    if high is not None:
        assert 1 - cdf[high] <= 0.025 < 1 - cdf[high - 1]
    assert (low is not None and high is not None) == (count >= needed_for_interval(percent))


def test_how_many_requests_it_takes() -> None:
    assert [needed_for_interval(percent) for percent in (50, 95, 99)] == [6, 72, 368]
    few = interval([float(n) for n in range(100)], 99)
    assert few is not None and few.high is None and few.needed == 368 and not few.enough and few.half_width is None
    assert interval([], 50) is None


def test_the_interval_covers_the_true_percentile_as_often_as_it_says() -> None:
    generator, covered = random.Random(2), 0
    for _ in range(300):
        found = interval([generator.expovariate(1) for _ in range(150)], 90)
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= -math.log(0.1) <= found.high
    assert covered / 300 >= 0.93


def test_alike_neighbours_are_worth_less() -> None:
    generator, value, series = random.Random(3), 0.0, []
    for _ in range(2000):
        value = 0.95 * value + generator.gauss(0, 1)
        series.append(value)
    alike = interval(series, 90)
    mixed = interval(generator.sample(series, len(series)), 90)
    assert alike is not None and mixed is not None and alike.value == mixed.value
    assert alike.effective < 300 < 1500 < mixed.effective
    assert (alike.half_width or 0) > 2 * (mixed.half_width or 0)
    assert effective_count([True] * 50) == 50


@given(count=st.integers(1, 120), data=st.data())
def test_bounds_of_a_share_hold_it_and_keep_their_risk(count: int, data: st.DataObject) -> None:
    within = data.draw(st.integers(0, count))
    low, high = share_bounds(within, count)
    assert 0 <= low <= within / count <= high <= 1
    if within:
        assert 1 - binomial_cdf(count, low)[within - 1] == pytest.approx(0.025, abs=1e-3)
    if within < count:
        assert binomial_cdf(count, high)[within] == pytest.approx(0.025, abs=1e-3)
