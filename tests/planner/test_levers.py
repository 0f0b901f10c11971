from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onecard.catalog.models import find_model
from onecard.catalog.units import GIB
from onecard.fleet.schema import Fleet
from onecard.planner.levers import Lever, can_be, least_context, model_levers, reserve_lever, without_model
from onecard.planner.room import Room
from onecard.planner.shapes import ModelShape, shape_of_model

MakeFleet = Callable[..., Fleet]


def room_of(shape: ModelShape, *, on_cpu: bool = False, fp8: bool = False) -> Room:
    return Room(24 * GIB, {"base": shape}, on_cpu, fp8)


def levers_of(fleet: Fleet, room: Room, place: str) -> list[Lever]:
    return [lever for lever in model_levers(fleet, "base", room) if lever.place.endswith(place)]


ADAPTED = {"adapter": "style@production"}


@pytest.mark.parametrize(
    ("agent", "risk", "cost"),
    [
        ({}, "real", "the same agents on smaller weights"),
        (ADAPTED | {"recipe": {"base_quantization": "nf4"}}, "low", "the same agents on smaller weights"),
        (ADAPTED | {"recipe": {"base_quantization": "int8"}}, "real", "train writer again on nf4"),
        (ADAPTED, "real", "train writer again on nf4"),
    ],
)
def test_four_bits_risk_less_where_adapters_learned_on_them(
    make_fleet: MakeFleet, mistral: ModelShape, agent: dict[str, Any], risk: str, cost: str
) -> None:
    fleet = make_fleet(agent=agent, quantization="int8")
    (nf4,) = [lever for lever in levers_of(fleet, room_of(mistral), "quantization") if "-> nf4" in lever.text(0)]
    assert (nf4.risk, nf4.cost(fleet, 0)) == (risk, cost)
    assert "arXiv" in nf4.reason


def test_every_lever_says_its_cost_and_why_it_risks_what_it_does_and_lowers_the_need_or_changes_what_can(
    make_fleet: MakeFleet, mistral: ModelShape
) -> None:
    room = room_of(mistral, fp8=True)
    fleet = make_fleet(agent=ADAPTED, quantization="none", context=8192, concurrency=8, reserve_gib=2.0)
    levers = [*model_levers(fleet, "base", room), reserve_lever(fleet)]
    assert {lever.place.rpartition(".")[2] for lever in levers if lever} == {
        "base", "engine", "quantization", "kv_cache", "adapter", "concurrency", "context", "reserve_gib"
    }  # fmt: skip
    for lever in levers:
        assert lever is not None
        assert lever.text(lever.least) and lever.cost(fleet, lever.least) and lever.reason
        then = lever.turn(fleet, lever.least)
        if lever.drops or not lever.model or not can_be(then, "base", room):
            continue
        assert room.need(then) < room.need(fleet)


def test_an_fp8_cache_is_for_vllm_on_cards_that_have_fp8(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    fleet = make_fleet(quantization="none")
    assert not levers_of(fleet, room_of(mistral), "kv_cache")
    (cache,) = levers_of(fleet, room_of(mistral, fp8=True), "kv_cache")
    room = room_of(mistral, fp8=True)
    assert not can_be(cache.turn(fleet, 0), "base", room)
    assert can_be(cache.turn(make_fleet(quantization="none", engine="vllm"), 0), "base", room)


def test_a_remote_model_has_no_levers(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    fleet = make_fleet(engine="remote", url="http://there/v1")
    assert model_levers(fleet, "base", room_of(mistral)) == ()


def test_context_stays_above_what_agents_need_by_their_own_account(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    stated = {
        "deadline": {"seconds": 9, "prompt_tokens": 3000, "new_tokens": 50},
        "presets": {"a": {"max_new_tokens": 900}},
    }
    assert least_context(make_fleet(agent=stated, context=8192), "base", mistral) == 3900
    assert least_context(make_fleet(agent={"presets": {"a": {"max_new_tokens": 600}}}), "base", mistral) == 856
    assert least_context(make_fleet(context=300), "base", mistral) == 300
    llava = shape_of_model(find_model("llava-hf/llava-1.5-7b-hf"))
    assert least_context(make_fleet(id=llava.id, agent={"input": "image"}), "base", llava) == 256 + 576 + 128
    (context,) = levers_of(make_fleet(agent=stated, context=8192), room_of(mistral), "context")
    assert (context.least, context.risk) == (3900, "none")
    (context,) = levers_of(make_fleet(context=8192), room_of(mistral), "context")
    assert context.risk == "low"


def test_the_written_reserve_is_the_one_that_was_reckoned(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(reserve_gib=1.5)
    lever = reserve_lever(fleet)
    assert lever is not None
    assert lever.text(123) == "reserve_gib: 1.5 -> 1.23"
    assert lever.turn(fleet, 123).reserve_gib == 1.23
    assert reserve_lever(make_fleet(reserve_gib=0.5)) is None


def test_without_a_model_its_agents_stand_bare_on_their_fallback_or_go() -> None:
    models = {key: {"id": f"x/{key}"} for key in "abc"}
    agents = {
        "moves": {"model": "a", "fallback": ["b", "c"], "adapter": "t@v0001", "recipe": {}},
        "goes": {"model": "a"},
        "stays": {"model": "c", "fallback": ["a"], "adapter": "t@v0001"},
    }
    fleet = Fleet.model_validate({"name": "t", "card": "l4", "models": models, "agents": agents})
    left = without_model(fleet, "a")
    assert set(left.models) == {"b", "c"}
    moved = left.agents["moves"]
    assert (moved.model, moved.fallback, moved.adapter, moved.recipe) == ("b", ("c",), None, None)
    assert (left.agents["stays"].fallback, left.agents["stays"].adapter) == ((), "t@v0001")
    assert "goes" not in left.agents
    assert set(without_model(left, "b").agents) == {"moves", "stays"}
