"""The plan as a whole. `test_memory`, `test_speed` and the others look at its parts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from onecard.catalog.cards import Card, find_card, load_cards
from onecard.catalog.models import find_model, load_models
from onecard.catalog.units import GIB
from onecard.errors import FleetError
from onecard.fleet.schema import Fleet
from onecard.planner.plan import TIGHT_OF_NEED, Evidence, plan
from onecard.planner.record import plan_record
from onecard.planner.shapes import ModelShape, shape_of_model
from onecard.planner.speed import SpeedFacts
from onecard.planner.training_run import DataFacts

MakeFleet = Callable[..., Fleet]


def test_headroom_is_what_the_card_gives_less_reserve_and_ledger(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card]
) -> None:
    made = plan(make_fleet(reserve_gib=1.5), card_of(24), {"base": mistral})
    assert made.available_bytes == round(22.5 * GIB)
    assert made.headroom_bytes == made.available_bytes - sum(line.bytes for line in made.serving.lines)
    assert made.fits
    assert not made.tight
    assert made.advice == ()


@pytest.mark.parametrize("gib", [4.0, 6.0, 9.0, 24.0])
def test_the_same_facts_give_the_same_plan(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card], gib: float
) -> None:
    first, second = (plan_record(plan(make_fleet(), card_of(gib), {"base": mistral})) for _ in range(2))
    assert first == second


def test_a_fleet_that_just_fits_is_called_tight(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card]
) -> None:
    fleet = make_fleet()
    need = plan(fleet, card_of(24), {"base": mistral}).need_bytes / GIB
    just = plan(fleet, card_of(need + 0.5 + 0.05), {"base": mistral})
    assert just.serving_fits
    assert just.tight
    share = TIGHT_OF_NEED * need
    assert plan(fleet, card_of(need + 0.5 + 0.9 * share), {"base": mistral}).tight
    over = plan(fleet, card_of(need + 0.5 - 0.05), {"base": mistral})
    assert not over.serving_fits
    assert not over.tight
    assert over.headroom_bytes / GIB == pytest.approx(-0.05, abs=0.001)
    assert over.advice


@pytest.mark.parametrize(
    "model_id",
    [model.id for model in load_models() if model.parameters > 18e9 or model.id == "microsoft/phi-4"],
)
def test_what_is_too_large_for_an_8_gb_card_is_refused_with_by_how_much(model_id: str) -> None:
    """Document B's exclusions: 20B and beyond, and dense models of 14B, do not fit an RTX 3070 in any form."""
    shape = shape_of_model(find_model(model_id))
    fleet = Fleet.model_validate(
        {
            "name": "b",
            "card": "rtx-3070",
            "models": {"base": {"id": model_id, "quantization": "none", "context": 4096}},
            "agents": {"a": {"model": "base"}},
        }
    )
    made = plan(fleet, find_card("rtx-3070"), {"base": shape})
    assert not made.serving_fits
    assert made.advice == ()
    assert made.smallest_need_bytes is not None
    assert made.smallest_need_bytes > made.available_bytes


def test_evidence_of_data_and_speed_is_used(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card]
) -> None:
    fleet = make_fleet(agent={"adapter": "a@production", "recipe": {"epochs": 2, "max_length": 1024}})
    bare = plan(fleet, card_of(24), {"base": mistral})
    assert bare.trainings[0].time is None
    assert bare.trainings[0].row_tokens == 1024
    rows = DataFacts(100, 20_000, 200, "exact", "counted")
    speed = SpeedFacts(936.2, 71.2, 5.0, "measured", "timed")
    told = plan(fleet, card_of(24), {"base": mistral}, Evidence(speed=speed, data={"writer": rows}))
    assert told.trainings[0].row_tokens == 200
    assert told.trainings[0].peak_bytes < bare.trainings[0].peak_bytes
    assert told.trainings[0].time is not None
    assert told.trainings[0].time.tokens == 40_000
    assert told.agents[0].itl is not None
    assert bare.agents[0].itl is not None
    assert told.agents[0].itl.expected < bare.agents[0].itl.expected


def test_a_run_that_does_not_fit_makes_the_plan_not_fit(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card]
) -> None:
    recipe = {"batch": {"forward_tokens": 16384}, "max_length": 4096, "gradient_checkpointing": False}
    made = plan(make_fleet(agent={"recipe": recipe}), card_of(24), {"base": mistral})
    assert made.serving_fits
    assert not made.trainings[0].fits
    assert not made.fits
    assert made.trainings[0].advice[0].startswith("gradient_checkpointing")


def test_an_adapter_that_learns_on_other_weights_is_warned_of(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card]
) -> None:
    agent = {"adapter": "a@production", "recipe": {"base_quantization": "nf4"}}
    other = plan(make_fleet(agent=agent, quantization="int8"), card_of(24), {"base": mistral})
    same = plan(make_fleet(agent=agent, quantization="nf4"), card_of(24), {"base": mistral})
    assert "writer: trained on nf4+DQ weights and served on int8" in other.warnings[0]
    assert same.warnings == ()


def test_a_late_agent_is_shown_ways_that_are_in_time_and_fit(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card]
) -> None:
    agent = {"deadline": {"seconds": 4, "prompt_tokens": 600, "new_tokens": 80}}
    made = plan(make_fleet(agent=agent, quantization="int8"), card_of(24), {"base": mistral})
    assert made.agents[0].verdict == "misses"
    assert made.faster
    for way in made.faster:
        assert way.verdict == "meets"
        assert way.busy.high <= 4


def test_a_reserve_larger_than_the_card_is_an_error(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    with pytest.raises(FleetError, match="leaves nothing") as refused:
        plan(make_fleet(reserve_gib=8), find_card("rtx-3070"), {"base": mistral})
    assert refused.value.where == "reserve_gib"


def test_every_model_can_be_planned_on_a_small_and_a_large_card() -> None:
    for model in load_models():
        shape = shape_of_model(model)
        fleet = Fleet.model_validate(
            {
                "name": "t",
                "card": "l4",
                "models": {"base": {"id": model.id, "context": 1024}},
                "agents": {"a": {"model": "base"}},
            }
        )
        for card in (load_cards()[0], find_card("mi300x")):
            record = plan_record(plan(fleet, card, {"base": shape}))
            assert record["need_bytes"] == sum(line["bytes"] for line in record["ledger"]) > 0


def test_the_record_is_json_and_holds_the_whole_plan(
    make_fleet: MakeFleet, mistral: ModelShape, card_of: Callable[[float], Card]
) -> None:
    agent = {"adapter": "a@production", "recipe": {}, "deadline": {"seconds": 4, "prompt_tokens": 60, "new_tokens": 80}}
    record = plan_record(plan(make_fleet(agent=agent), card_of(6), {"base": mistral}))
    assert json.loads(json.dumps(record)) == record
    assert record["need_bytes"] - record["available_bytes"] == -record["headroom_bytes"]
    assert sum(record["bytes_by_tag"].values()) == record["need_bytes"]
    assert record["trainings"][0]["peak_bytes"] > 0
    assert record["advice"][0]["changes"]
    assert "fleet" not in record["advice"][0]


def test_planning_imports_nothing_heavy() -> None:
    code = "import sys, onecard.planner.plan, onecard.planner.record; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "peft", "bitsandbytes", "numpy", "httpx", "onecard.weights"}
