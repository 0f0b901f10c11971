from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.evaluation.paired import paired_difference

SHARES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12)


@settings(max_examples=30)
@given(SHARES, st.integers(0, 9))
def test_the_interval_lies_around_the_mean_within_the_differences(pairs: list[tuple[float, float]], seed: int) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    found = paired_difference(ours, theirs, seed)
    assert found == paired_difference(ours, theirs, seed)
    assert found.low is not None and found.high is not None
    differences = [a - b for a, b in pairs]
    assert min(differences) - 1e-9 <= found.low <= found.high <= max(differences) + 1e-9
    assert min(differences) - 1e-9 <= found.mean <= max(differences) + 1e-9


@settings(max_examples=15)
@given(SHARES)
def test_turned_around_the_mean_changes_its_sign(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    assert paired_difference(ours, theirs, 0).mean == pytest.approx(-paired_difference(theirs, ours, 0).mean)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Differences drawn from a known distribution of mean 0.1; 95% intervals of 40 rows should cover it in most of 60 draws."""
    draw = Random(3)
    covered = 0
    for trial in range(60):
        ours = [0.1 + draw.gauss(0, 0.3) for _ in range(40)]
        found = paired_difference(ours, [0.0] * 40, seed=trial)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.1 <= found.high
    assert 50 <= covered <= 60


def test_pairing_makes_a_steady_difference_certain() -> None:
    """Questions differ a lot, the two answerers by the same step on each: the interval sees the step alone."""
    theirs = [0.0, 0.2, 0.5, 0.9] * 5
    found = paired_difference([value + 0.1 for value in theirs], theirs, 0)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_one_question_gives_no_interval() -> None:
    found = paired_difference([1.0], [0.0], 0)
    assert (found.mean, found.low, found.high, found.rows) == (1.0, None, None, 1)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 0.0])])
def test_what_cannot_be_paired_is_an_error(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(ours, theirs, 0)
