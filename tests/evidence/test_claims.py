"""Claims and the rule by which a verdict follows."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from onecard.evidence.claims import (
    QUANTITIES,
    Claim,
    Measured,
    Predicted,
    Reasoned,
    Subject,
    claims_about,
    deciding,
    verdict,
)


def claim(**changes: Any) -> Claim:
    record: dict[str, Any] = {
        "id": "test", "statement": "A sentence.", "quantity": "memory_gib", "value": 12, "unit": "GiB", "who": "somebody",
    }  # fmt: skip
    return Claim.model_validate(record | changes)


def predicted(
    low: float | None = None, expected: float | None = None, high: float | None = None, **more: Any
) -> Predicted:
    return Predicted("a plan", "assumed", low, expected, high, **more)


def measured(value: float | bool, **more: Any) -> Measured:
    return Measured(value=value, machine="a machine", date="2026-11-21", record="sweep.json", **more)


@pytest.mark.parametrize(
    ("comparison", "value", "said"),
    [
        ("is", 12, "confirmed"),
        ("is", 9, "refuted"),
        ("about", 9.5, "confirmed"),
        ("about", 8, "refuted"),
        ("at_most", 15, "confirmed"),
        ("at_most", 12, "unknown"),
        ("at_most", 9, "refuted"),
        ("at_least", 9, "confirmed"),
        ("at_least", 12, "unknown"),
        ("at_least", 15, "refuted"),
        ("range", [11, 13], "confirmed"),
        ("range", [5, 30], "confirmed"),
        ("range", [5, 10.5], "unknown"),
        ("range", [5, 9], "refuted"),
    ],
)
def test_a_claim_is_held_against_the_predicted_range(comparison: str, value: Any, said: str) -> None:
    judged = verdict(claim(comparison=comparison, value=value), predicted(10, 12, 14), None)
    assert (judged.verdict, judged.by) == (said, "predicted")


def test_a_least_value_refutes_what_is_below_it_and_decides_nothing_above() -> None:
    assert verdict(claim(value=9), predicted(10), None).verdict == "refuted"
    assert verdict(claim(value=12), predicted(10), None).verdict == "unknown"
    assert verdict(claim(value=12, comparison="at_most"), predicted(10), None).verdict == "unknown"
    assert verdict(claim(value=9, comparison="at_most"), predicted(10), None).verdict == "refuted"
    assert verdict(claim(value=9, comparison="at_least"), predicted(10), None).verdict == "confirmed"


def test_a_gb_may_be_either_of_two_units_and_the_claim_gets_the_kinder() -> None:
    """15 GB is 13.97 or 15 GiB; 15 GiB is 15."""
    assert verdict(claim(value=15, unit="GB"), predicted(13.9, 14, 14.1), None).verdict == "confirmed"
    assert verdict(claim(value=15, unit="GiB"), predicted(13.9, 14, 14.1), None).verdict == "refuted"
    assert (
        verdict(claim(value=15, unit="GB", comparison="at_most"), predicted(14, 14.5, 15), None).verdict == "confirmed"
    )


@pytest.mark.parametrize(
    ("quantity", "value", "unit", "own"),
    [
        ("training_hours", 30, "min", 0.5),
        ("latency_s", 165, "ms", 0.165),
        ("p50_ms", 2, "s", 2000),
        ("memory_gib", 512, "MiB", 0.5),
        ("training_hours", 7200, "s", 2),
    ],
)
def test_figures_are_compared_in_one_unit(quantity: str, value: float, unit: str, own: float) -> None:
    low, high = claim(quantity=quantity, value=value, unit=unit).bounds
    assert low == pytest.approx(own) and high == pytest.approx(own)


def test_a_measurement_of_the_same_thing_decides_before_a_prediction() -> None:
    judged = verdict(claim(value=12), predicted(10, 12, 14), measured(15))
    assert (judged.verdict, judged.by) == ("refuted", "measured")
    assert verdict(claim(value=12), predicted(20, 21, 22), measured(12.5)).verdict == "confirmed"


def test_a_measurement_of_something_else_decides_nothing() -> None:
    judged = verdict(claim(value=12), None, measured(12, decides=False), missing="the card is not said")
    assert (judged.verdict, judged.by, judged.why) == ("unknown", "nothing", "the card is not said")


def test_what_is_no_figure_is_the_same_or_is_not() -> None:
    there = claim(quantity="exists", value=True, unit=None)
    assert verdict(there, predicted(answer=True), None).verdict == "confirmed"
    assert verdict(there, predicted(answer=False), None).verdict == "refuted"
    assert verdict(there, None, measured(False)).verdict == "refuted"
    licence = claim(quantity="licence", value="MIT", unit=None)
    assert verdict(licence, predicted(answer="mit"), None).verdict == "confirmed"


def test_reasons_decide_only_where_figures_do_not() -> None:
    reasoned = Reasoned(verdict="confirmed", why="it must be", source="arithmetic")
    open_claim = claim(value=12, reasoned=reasoned)
    assert verdict(open_claim, None, None).by == "reasoned"
    assert verdict(open_claim, predicted(20, 21, 22), None).by == "predicted"


def test_the_last_measurement_that_decides_is_the_one_to_judge_by() -> None:
    known = claim(measured=[{"value": 1, "machine": "m", "date": "d", "record": "r"}])
    found = deciding(known, [measured(2), measured(3, decides=False)])
    assert found is not None and found.value == 2
    assert deciding(claim()) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unit": "Gb"}, "did you mean 'GB'"),
        ({"unit": None}, "no unit"),
        ({"value": True}, "memory_gib is a number"),
        ({"value": [1, 2]}, "a range has two numbers"),
        ({"comparison": "range"}, "a range has two numbers"),
        ({"comparison": "range", "value": [2, 1]}, "runs backwards"),
        ({"quantity": "fits", "value": 3}, "fits is a yes or no"),
        ({"quantity": "fits", "value": True}, "it has no unit"),
        ({"value": -1}, "greater than or equal to 0"),
        ({"value": math.inf}, "finite"),
        ({"id": "Not an id"}, "pattern"),
        ({"subject": {"modle": "x"}}, "Extra inputs"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        claim(**changes)


def test_claims_are_found_by_model_card_form_and_quantity() -> None:
    known = [
        claim(id="one", subject={"model": "microsoft/phi-4", "card": "mi300x", "quantization": "nf4"}),
        claim(id="two", subject={"model": "microsoft/phi-4"}),
        claim(id="three", subject={"model": "Qwen/Qwen3-8B", "card": "rtx-3070"}, where={"document": "B"}),
    ]

    def ids(**asked: Any) -> list[str]:
        return [found.id for found in claims_about(known, **asked)]

    assert ids(model="Microsoft/Phi-4") == ["one", "two"]
    assert ids(model="qwen3") == ["three"]
    assert ids(model="soft/phi-4") == []
    assert ids(card="mi300x") == ["one", "two"]
    assert ids(quantization="int8") == ["two", "three"]
    assert ids(document="B") == ["three"]
    assert ids(quantity="latency_s") == []


@given(st.floats(0.1, 1e6), st.floats(0.1, 1e6), st.floats(1, 10), st.floats(1, 10))
def test_asking_for_less_never_turns_a_confirmed_limit_into_a_refuted_one(
    limit: float, low: float, wider: float, more: float
) -> None:
    order = {"refuted": 0, "unknown": 1, "confirmed": 2}
    range_ = predicted(low, low * wider**0.5, low * wider)
    strict = verdict(claim(comparison="at_most", value=limit), range_, None).verdict
    lax = verdict(claim(comparison="at_most", value=limit * more), range_, None).verdict
    assert order[strict] <= order[lax]


@given(st.sampled_from([q for q, m in QUANTITIES.items() if m.kind == "number"]), st.data())
def test_every_unit_of_a_quantity_has_bounds_in_order(quantity: str, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(list(QUANTITIES[quantity].units)))  # type: ignore[index]
    comparison = data.draw(st.sampled_from(["is", "about", "at_most", "at_least"]))
    low, high = claim(quantity=quantity, unit=unit, comparison=comparison, value=data.draw(st.floats(0, 1e9))).bounds
    assert low <= high


def test_every_key_of_a_subject_may_be_left_out() -> None:
    assert Subject().model_dump(exclude_defaults=True) == {}
