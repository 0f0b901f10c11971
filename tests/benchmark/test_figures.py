"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onecard.benchmark.figures import Headline, counted, milliseconds, moment, of_unit, plain, readable, spread_cell
from onecard.benchmark.statistics import Spread, caller_points
from onecard.evidence.results import ResultFile


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1.5, "1.50"), (41.23, "41.2"), (560.4, "560"), (5661.0, "5,661"), (0.0, "0"), (None, None)],
)
def test_three_significant_digits(value: float | None, text: str | None) -> None:
    assert readable(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.5, "1.5"), (70.0, "70"), (200.0, "200"), (0.71, "0.71"), (1000.0, "1,000"), (100.0, "100")]
)
def test_prose_has_no_zeros_behind_the_point(value: float, text: str) -> None:
    assert plain(value) == text


def test_units_and_moments() -> None:
    assert of_unit(0.757, "GiB") == "0.757 GiB"
    assert milliseconds(9999) == "9,999 ms"
    assert milliseconds(12_345) == "12.3 s"
    assert moment("2026-11-21T13:05:10+00:00") == "2026-11-21 13:05 UTC"
    assert moment("yesterday") == "yesterday"
    assert [counted(n, "caller") for n in (1, 2, 0)] == ["1 caller", "2 callers", "0 callers"]
    assert spread_cell(Spread(2, 1, 3)) == ("2.00", "1.00 - 3.00")
    assert spread_cell(Spread(2, 2, 2)) == ("2.00", None)
    assert spread_cell(None) == (None, None)


def test_the_headline_compares_with_no_batching(make_result: Callable[..., ResultFile]) -> None:
    result = make_result(callers=(1, 4))
    boxes = Headline(result, caller_points(result.steps)).boxes()
    said = " | ".join(f"{value} {meaning}" for value, meaning in boxes)
    assert "p50 with 1 caller" in said
    assert "p50 with 4 callers" in said and "(unbatched: 4 times)" in said
    assert "p95 with 4 callers" in said
    assert "requests/s at most, with 4 callers" in said
    assert f"{3 * 24 * 5} of {3 * 24 * 5} requests answered" in said
    assert "1.00 GiB memory of the service's process at most" in said


def test_a_headline_of_nothing_is_empty(make_result: Callable[..., ResultFile]) -> None:
    result = make_result(callers=(1,), repeats=1, requests=1).model_copy(update={"steps": ()})
    assert Headline(result, []).boxes() == []
