"""The plan against what is free, and beside what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onecard.adapters.manifest import CurvePoint, TrainingRecord
from onecard.catalog.units import GIB, MIB
from onecard.cli.model_shapes import shape_of
from onecard.cli.train_memory import MemoryPlan, beside_measured, cheapest, demand_fit, facts_of, off
from onecard.errors import DoesNotFit
from onecard.fleet.recipe import Recipe
from onecard.planner.speed import SpeedFacts
from onecard.planner.training_run import DataFacts, TrainingPlan, training_plan
from onecard.training.ledger import Ledger, RowTokens

SPEED = SpeedFacts(100.0, 10.0, 10.0, "assumed", "")


def plan(available: int, on_cpu: bool = False) -> TrainingPlan:
    recipe = Recipe.model_validate(
        {"gradient_checkpointing": False, "batch": {"rows": 8, "accumulate": 2, "packing": False}, "max_length": 4096}
    )
    data = DataFacts(1600, 1600 * 900, 2048, "exact", "counted")
    shape = shape_of("mistralai/Mistral-7B-v0.3", Path())
    return training_plan("a", "base", recipe, shape, data, SPEED, None, available, on_cpu=on_cpu)


def test_what_does_not_fit_names_the_cheapest_change_and_the_way_around():
    found = MemoryPlan(plan(24 * GIB), 24 * GIB, on_card=True)
    with pytest.raises(DoesNotFit) as refused:
        demand_fit(found, "fleet.yaml: agents.a.recipe")
    said = refused.value
    assert said.where == "fleet.yaml: agents.a.recipe" and "24.00 GiB of the card's memory are free" in said.problem
    assert "change the recipe: gradient_checkpointing: true" in str(said.next_step) and "--force" in str(said.next_step)
    demand_fit(replace(found, free_bytes=1 << 50), "")


def test_of_a_card_only_what_the_allocator_hands_out_is_compared():
    found = MemoryPlan(plan(1 << 50), 1 << 50, on_card=True)
    lines = {line.part: line.bytes for line in found.plan.ledger.lines}
    assert found.measured_alike_bytes == found.peak_bytes - lines["driver context"] - lines["allocator holes"]


def test_what_the_process_holds_already_takes_the_place_of_the_assumption():
    found = MemoryPlan(plan(1 << 50, on_cpu=True), 1 << 50, on_card=False, held_bytes=100 * MIB)
    assert found.peak_bytes == found.plan.peak_bytes == found.measured_alike_bytes
    held = replace(found, held_bytes=5 * GIB)
    process = sum(line.bytes for line in found.plan.ledger.lines if line.kind == "process")
    assert held.peak_bytes - found.peak_bytes == 5 * GIB - process


def test_rows_are_counted_and_not_guessed():
    rows = tuple(RowTokens("f:1", None, 10 + n, 5, 15 + n, True, False) for n in range(3))
    facts = facts_of(Ledger(rows, (), (), 1024), "rows.jsonl")
    assert (facts.rows, facts.tokens, facts.longest, facts.tag) == (3, 48, 17, "exact")


def test_predictions_stand_beside_the_measurement_with_their_error():
    record = TrainingRecord(
        rows=1, trained_tokens=1, steps=1, seconds=1, tokens_s=1, peak_memory_bytes=GIB, memory_kind="process-rss",
        planned_peak_bytes=3 * GIB // 2, rehearsed_peak_bytes=GIB // 2, hardware="", versions={},
        curve=(CurvePoint(step=1, loss=1, learning_rate=1),),
    )  # fmt: skip
    assert list(beside_measured(record)) == ["planned 1.50 GiB (50% too high)", "rehearsed 0.50 GiB (50% too low)"]
    assert list(beside_measured(record.model_copy(update={"planned_peak_bytes": None}))) == [
        "rehearsed 0.50 GiB (50% too low)"
    ]
    assert off(1001, 1000) == "right to 1%" and off(5, 0) == "right to 1%"


def test_advice_as_a_clause():
    assert cheapest(("a: 1", "b: 2")) == "change the recipe: a: 1; b: 2"
    assert cheapest(("a: 1", "even then it does not fit: take a smaller base")).startswith("even then")
    assert cheapest(()) == "free some memory"
