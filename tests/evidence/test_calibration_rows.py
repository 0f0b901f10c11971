"""Figures of a calibration are what a measurement can be: above zero, in order, told by something known."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from onecard.evidence.calibration_rows import Context, Figure, LinearTime


@pytest.mark.parametrize(
    "values",
    [(0, 0, 0, 3), (2, 3, 4, 3), (2, 1, 1.5, 3), (2, 1, 3, 0), (float("inf"), 1, float("inf"), 3)],
)
def test_no_figure_is_below_zero_out_of_order_or_seen_never(values: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        Figure(**dict(zip(("median", "low", "high", "repeats"), values, strict=True)))


def test_a_process_takes_something() -> None:
    with pytest.raises(ValidationError):
        Context(bare_bytes=0)
    assert Context(bare_bytes=1).serving_bytes is None


def test_an_unknown_form_and_an_unknown_clock_are_refused() -> None:
    figure = Figure(median=1, low=1, high=1, repeats=1)
    row = {"tokens": 1, "inputs": 2, "outputs": 2, "us": figure, "called_us": figure}
    LinearTime(form="nf4", by="events", **row)
    for wrong in ({"form": "awq", "by": "events"}, {"form": "nf4", "by": "eye"}):
        with pytest.raises(ValidationError):
            LinearTime.model_validate({**row, **wrong})
