from __future__ import annotations

import doctest
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.evaluation import paired
from onecard.evaluation.paired import (
    FEWEST_ROWS,
    Difference,
    better,
    expanded_tail_percent,
    gain,
    matched_proportions,
    no_worse,
    paired_difference,
)

SHARES = st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)), min_size=2, max_size=12)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(paired).failed == 0


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


def covered(rows: int, trials: int, draw_pair, truth: float) -> float:
    """Share of intervals over `rows` simulated pairs that hold the true difference."""
    draw, inside = Random(11), 0
    for trial in range(trials):
        pairs = [draw_pair(draw) for _ in range(rows)]
        found = paired_difference([a for a, _ in pairs], [b for _, b in pairs], seed=trial)
        assert found.low is not None and found.high is not None
        inside += found.low <= truth <= found.high
    return inside / trials


@pytest.mark.parametrize(
    ("draw_pair", "truth"),
    [
        (lambda draw: (draw.random() ** 2, draw.random()), 1 / 3 - 1 / 2),  # skewed, unrelated
        (
            lambda draw: ((shared := draw.random()) + draw.gauss(0.05, 0.1), shared),
            0.05,
        ),  # hard and easy rows, one step
        (lambda draw: (float(draw.random() < 0.97), float(draw.random() < 0.97)), 0.0),  # nearly always right
    ],
    ids=["skewed", "paired", "near-one"],
)
def test_intervals_of_few_rows_hold_the_truth_at_about_their_level(draw_pair, truth: float, monkeypatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 400)
    assert covered(25, 120, draw_pair, truth) >= 0.91


def test_a_candidate_that_is_worse_by_the_margin_hardly_ever_passes(monkeypatch) -> None:
    """The truth is 10 points below, the margin is 10 points: passing is the error that the gate promises to keep at 2.5%."""
    monkeypatch.setattr(paired, "RESAMPLES", 400)
    draw, passed = Random(5), 0
    for trial in range(150):
        base = [float(draw.random() < 0.8) for _ in range(60)]
        ours = [float(draw.random() < 0.7) for _ in range(60)]
        passed += no_worse(paired_difference(ours, base, trial), 0.10) == "passed"
    assert passed <= 9  # 2.5% of 150 is 3.75; nine or fewer in 99 of 100 such runs


def test_thirty_equal_answers_do_not_prove_equality() -> None:
    same = paired_difference([1.0] * 30, [1.0] * 30, 0)
    assert same.low is not None and same.low < -0.05
    assert no_worse(same, 0.02) == "undecided"
    assert no_worse(paired_difference([1.0] * 300, [1.0] * 300, 0), 0.02) == "passed"


@given(st.integers(2, 400))
def test_the_tail_lies_outside_the_normal_one_and_comes_back_to_it(rows: int) -> None:
    assert 0 <= expanded_tail_percent(rows) < expanded_tail_percent(rows + 1) < 2.5


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=50))
def test_matched_proportions_turn_with_the_sign(differences: list[float]) -> None:
    low, high = matched_proportions(differences)
    turned_low, turned_high = matched_proportions([-d for d in differences])
    assert (turned_low, turned_high) == pytest.approx((-high, -low))
    assert low < high


def an_interval(low: float | None, high: float | None, rows: int = 50) -> Difference:
    mean = 0.0 if low is None or high is None else (low + high) / 2
    return Difference(mean=mean, low=low, high=high, rows=rows)


@pytest.mark.parametrize(
    ("low", "high", "rows", "kept", "won"),
    [
        (-0.01, 0.03, 50, "passed", "undecided"),
        (0.01, 0.03, 50, "passed", "passed"),
        (-0.05, 0.01, 50, "undecided", "undecided"),
        (-0.09, -0.05, 50, "failed", "failed"),
        (-0.015, -0.01, 50, "passed", "failed"),
        (0.01, 0.03, FEWEST_ROWS - 1, "undecided", "undecided"),
        (None, None, 1, "undecided", "undecided"),
    ],
)
def test_what_an_interval_decides(low: float | None, high: float | None, rows: int, kept: str, won: str) -> None:
    improvement = an_interval(low, high, rows)
    assert (no_worse(improvement, 0.02), better(improvement)) == (kept, won)


@given(st.floats(-1, 0), st.floats(0, 1), st.floats(0, 1))
def test_a_wider_margin_never_turns_a_pass_into_less(low: float, high: float, margin: float) -> None:
    order = ["failed", "undecided", "passed"]
    improvement = an_interval(low, high)
    assert order.index(no_worse(improvement, margin)) <= order.index(no_worse(improvement, margin + 0.1))


def test_where_less_is_better_a_gain_is_a_fall() -> None:
    fall = Difference(mean=-0.2, low=-0.3, high=-0.1, rows=30)
    turned = gain(fall, more_is_better=False)
    assert (turned.mean, turned.low, turned.high) == (0.2, 0.1, 0.3)
    assert gain(fall, more_is_better=True) == fall
    assert gain(Difference(mean=0.5, low=None, high=None, rows=1), more_is_better=False).mean == -0.5
