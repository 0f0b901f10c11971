"""What the dashboard is told before the start: the very plan of the fleet file, and the deadlines in it."""

from __future__ import annotations

from pathlib import Path

from onecard.cli.plan import plan_of
from onecard.cli.serve_expected import expected_of
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.serving.dashboard import Promise


def test_it_is_the_plan_of_the_fleet() -> None:
    loaded = load_fleet(examples_folder() / "demo.yaml")
    expected, made = expected_of(loaded), plan_of(loaded, offline=True)
    assert sum(expected.planned_bytes.values()) == made.need_bytes
    assert expected.planned_bytes["weights"] == made.serving.bytes_of_kind("weights") > 0
    assert expected.reserve_bytes == made.reserve_bytes and expected.card == made.card.name
    assert expected.deadlines == {"explainer": Promise(10, 95), "quizmaster": Promise(10, 95)}


def test_a_fleet_that_cannot_be_planned_still_has_its_deadlines(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "name: x\ncard: rtx-3090\nmodels:\n  base: {id: nobody/nothing-at-all}\nagents:\n"
        "  one: {model: base, deadline: {seconds: 2, prompt_tokens: 10, new_tokens: 10}}\n  two: {model: base}\n"
    )
    expected = expected_of(load_fleet(file))
    assert (expected.planned_bytes, expected.card_bytes) == ({}, None)
    assert expected.deadlines == {"one": Promise(2, 95)}
