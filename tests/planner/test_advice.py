from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onecard.catalog.models import find_model
from onecard.catalog.units import GIB
from onecard.fleet.schema import Fleet
from onecard.planner.advice import MOST_CHANGES, Advice, advise, after_out_of_memory, smallest_need
from onecard.planner.levers import LOST, REPLACED, RISKS, Lever, can_be, model_levers, reserve_lever
from onecard.planner.memory import serving_ledger
from onecard.planner.room import Room
from onecard.planner.shapes import ModelShape, shape_of_model
from onecard.planner.speed import SpeedFacts

MakeFleet = Callable[..., Fleet]

SHAPES = {
    "base": shape_of_model(find_model("mistralai/Mistral-7B-v0.3")),
    "vision": shape_of_model(find_model("llava-hf/llava-1.5-7b-hf")),
}
QUANTIZATIONS = st.sampled_from(["none", "int8", "nf4", "awq"])
SPEED = SpeedFacts(936.2, 71.2, 10.0, "assumed", "a test")


def room_of(gib: float, **shapes: ModelShape) -> Room:
    return Room(round(gib * GIB), shapes, on_cpu=False)


@st.composite
def two_models(draw: st.DrawFn) -> Fleet:
    """A fleet of a text and a vision model, with or without adapter, fallback, deadline and a large reserve."""
    models = {
        key: {
            "id": SHAPES[key].id,
            "context": draw(st.sampled_from([600, 2048, 4096])),
            "concurrency": draw(st.sampled_from([1, 2, 6])),
            "quantization": draw(QUANTIZATIONS),
            "double_quantization": draw(st.booleans()),
        }
        for key in SHAPES
    }
    writer: dict[str, Any] = {"model": "base"}
    if draw(st.booleans()):
        writer |= {
            "adapter": "style@production",
            "recipe": {"base_quantization": draw(st.sampled_from(["nf4", "int8"]))},
        }
    if draw(st.booleans()):
        writer["deadline"] = {"seconds": 20, "prompt_tokens": 400, "new_tokens": 150}
    reader = {"model": "vision", "fallback": ["base"] if draw(st.booleans()) else []}
    reserve = draw(st.sampled_from([0.5, 2.0]))
    card = {"name": "t", "card": "l4", "reserve_gib": reserve, "models": models}
    return Fleet.model_validate({**card, "agents": {"writer": writer, "reader": reader}})


def spare(fleet: Fleet, start: Fleet, room: Room) -> int:
    """What is left of the card when `fleet` serves on it; `start` is the fleet that the room was made for."""
    freed = round((start.reserve_gib - fleet.reserve_gib) * GIB)
    return room.available_bytes + freed - serving_ledger(fleet, room.shapes).total_bytes


def pulled(fleet: Fleet, levers: tuple[Lever, ...]) -> Fleet:
    """The fleet with all levers at their least."""
    for lever in sorted(levers, key=lambda lever: lever.order):
        fleet = lever.turn(fleet, lever.least)
    return fleet


def every_set(fleet: Fleet, room: Room, most: int) -> dict[int, list[tuple[int, Fleet]]]:
    """By trying all: for each number of changes, (gravity, fleet at its least) of the sets that fit."""
    levers = [lever for key in fleet.models for lever in model_levers(fleet, key, room)]
    levers += [lever for lever in [reserve_lever(fleet)] if lever]
    found: dict[int, list[tuple[int, Fleet]]] = {}
    for count in range(1, most + 1):
        for chosen in combinations(levers, count):
            dropped = [lever.model for lever in chosen if lever.drops]
            if len({lever.place for lever in chosen}) < count:
                continue
            if any(lever.model in dropped and not lever.drops for lever in chosen):
                continue
            then = pulled(fleet, chosen)
            if not then.models or not then.agents or not all(can_be(then, key, room) for key in then.models):
                continue
            if spare(then, fleet, room) >= 0:
                gravity = LOST if len(then.agents) < len(fleet.agents) else max(lever.gravity for lever in chosen)
                found.setdefault(count, []).append((gravity, then))
    return found


def gravity_of(advice: Advice, fleet: Fleet) -> int:
    """As the search weighs it: an agent lost, an agent answered by something else, or the risk of the changes."""
    then = advice.fleet.agents
    if len(then) < len(fleet.agents):
        return LOST
    same = all((then[name].model, then[name].adapter) == (a.model, a.adapter) for name, a in fleet.agents.items())
    return RISKS.index(advice.risk) if same else REPLACED


@settings(deadline=None, max_examples=40)
@given(fleet=two_models(), gib=st.floats(6, 40))
def test_the_search_finds_what_trying_everything_finds(fleet: Fleet, gib: float) -> None:
    room = room_of(gib, **SHAPES)
    assume(not room.holds(fleet))
    offered = advise(fleet, room)
    found = every_set(fleet, room, 3)
    best = LOST + 1
    for count in sorted(found):
        gentlest = min(gravity for gravity, _ in found[count])
        mine = [advice for advice in offered if len(advice.changes) == count]
        if gentlest >= best:
            assert not mine
            continue
        assert min(gravity_of(advice, fleet) for advice in mine) == gentlest
        best = gentlest
    if found:
        assert len(offered[0].changes) == min(found)
    assert all(len(advice.changes) > 3 for advice in offered) or found


@settings(deadline=None, max_examples=40)
@given(fleet=two_models(), gib=st.floats(4, 40))
def test_every_advice_makes_it_fit_when_it_is_taken(fleet: Fleet, gib: float) -> None:
    room = room_of(gib, **SHAPES)
    before = spare(fleet, fleet, room)
    offered = advise(fleet, room)
    if before >= 0:
        assert offered == ()
    for advice in offered:
        taken = Fleet.model_validate(advice.fleet.model_dump())
        left = spare(taken, fleet, room)
        assert left == advice.headroom_bytes >= 0
        assert left - before == advice.saves_bytes == sum(change.saves_bytes for change in advice.changes)
        assert all(change.text and change.cost and change.reason for change in advice.changes)
        assert len({change.text.partition(":")[0] for change in advice.changes}) == len(advice.changes)
    counts = [len(advice.changes) for advice in offered]
    assert counts == sorted(counts)


@settings(deadline=None, max_examples=30)
@given(fleet=two_models(), gib=st.floats(6, 40))
def test_dials_go_no_lower_than_they_must(fleet: Fleet, gib: float) -> None:
    room = room_of(gib, **SHAPES)
    for advice in advise(fleet, room):
        for key, spec in advice.fleet.models.items():
            for dial, step in (("context", 256), ("concurrency", 1)):
                value, was = getattr(spec, dial), getattr(fleet.models[key], dial)
                if value == was:
                    continue
                raised = spec.model_copy(update={dial: min(value + step, was)})
                more = advice.fleet.model_copy(update={"models": {**advice.fleet.models, key: raised}})
                assert value < was
                assert spare(more, fleet, room) < 0


@settings(deadline=None, max_examples=30)
@given(fleet=two_models(), gib=st.floats(1, 14))
def test_without_advice_even_the_smallest_form_does_not_fit(fleet: Fleet, gib: float) -> None:
    room = room_of(gib, **SHAPES)
    assume(not room.holds(fleet))
    smallest, changed = smallest_need(fleet, room)
    assert smallest == room.need(changed) <= room.need(fleet)
    assert set(changed.models) == set(fleet.models)
    if not advise(fleet, room):
        assert smallest > room.available_bytes


def test_what_needs_more_changes_than_the_search_looks_at_is_still_found() -> None:
    keys = ["a", "b", "c", "d"]
    models = {key: {"id": SHAPES["base"].id, "quantization": "none", "context": 8192, "concurrency": 8} for key in keys}
    agents = {f"{key}{n}": {"model": key} for key in keys for n in range(2)}
    fleet = Fleet.model_validate({"name": "t", "card": "l4", "models": models, "agents": agents})
    room = room_of(24, **dict.fromkeys(keys, SHAPES["base"]))
    (advice,) = [one for one in advise(fleet, room) if len(one.fleet.agents) == 8]
    assert len(advice.changes) > MOST_CHANGES
    assert room.holds(advice.fleet)


def test_the_least_risk_comes_first_and_what_saves_least_before_what_saves_more(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(quantization="int8", context=8192, concurrency=8)
    offered = advise(fleet, room_of(14, base=SHAPES["base"]))
    assert len(offered[0].changes) == 1
    assert [advice.risk for advice in offered] == sorted((advice.risk for advice in offered), key=RISKS.index)
    for one, other in pairwise(offered):
        assert one.risk != other.risk or one.saves_bytes <= other.saves_bytes


def test_a_smaller_form_is_not_offered_where_a_larger_one_does(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(quantization="none", context=600, concurrency=1)
    texts = [change.text for advice in advise(fleet, room_of(10, base=SHAPES["base"])) for change in advice.changes]
    assert any("-> int8" in text for text in texts)
    assert not any("-> nf4" in text for text in texts)


def test_context_is_not_lowered_below_what_deadlines_need(make_fleet: MakeFleet) -> None:
    agent = {"deadline": {"seconds": 60, "prompt_tokens": 7000, "new_tokens": 1000}}
    fleet = make_fleet(agent=agent, quantization="int8", context=8192, concurrency=8)
    for advice in advise(fleet, room_of(14, base=SHAPES["base"])):
        assert advice.fleet.models["base"].context >= 8000


def test_a_deadline_that_turns_out_otherwise_is_told(make_fleet: MakeFleet) -> None:
    agent = {"deadline": {"seconds": 14, "prompt_tokens": 200, "new_tokens": 100}}
    fleet = make_fleet(agent=agent, quantization="nf4", context=8192, concurrency=8)
    room = room_of(9, base=SHAPES["base"])
    fewer = next(a for a in advise(fleet, room, SPEED) if "concurrency" in a.changes[0].text)
    assert fewer.effects
    assert fewer.effects[0].startswith("writer: deadline of 14 s meets -> ")
    assert all(not advice.effects for advice in advise(fleet, room))


def test_dropping_a_model_moves_agents_to_their_fallback() -> None:
    small = shape_of_model(find_model("Salesforce/blip2-opt-2.7b"))
    models = {
        "vision": {"id": "llava-hf/llava-1.5-7b-hf", "quantization": "nf4", "context": 600},
        "small": {"id": small.id, "quantization": "nf4", "context": 600},
    }
    reader = {"model": "vision", "fallback": ["small"], "input": "image", "adapter": "page@production"}
    fleet = Fleet.model_validate({"name": "t", "card": "l4", "models": models, "agents": {"reader": reader}})
    offered = advise(fleet, room_of(4, vision=SHAPES["vision"], small=small))
    moved = next(advice for advice in offered if advice.changes[0].text == "drop models.vision")
    assert moved.fleet.agents["reader"].model == "small"
    assert moved.fleet.agents["reader"].adapter is None
    assert moved.changes[0].cost == "agent reader is answered by small"
    assert moved.changes[0].risk == "real"


def test_a_base_that_cannot_be_quantized_gets_no_such_advice(make_fleet: MakeFleet) -> None:
    falcon = shape_of_model(find_model("tiiuae/falcon-7b"))
    fleet = make_fleet(id=falcon.id, quantization="int8", context=2048, engine="local")
    room = replace(room_of(8, base=falcon), on_cpu=True)
    assert advise(fleet, room) == ()
    assert smallest_need(fleet, room)[0] > 8 * GIB


@pytest.mark.parametrize("engine", ["local", "vllm"])
def test_each_engine_is_offered_its_own_forms(make_fleet: MakeFleet, engine: str) -> None:
    fleet = make_fleet(quantization="none", engine=engine, context=600, concurrency=1)
    first = [change.text for change in advise(fleet, room_of(9.5, base=SHAPES["base"]))[0].changes]
    assert any("-> awq" in text if engine == "vllm" else "-> int8" in text for text in first)


def test_a_processor_is_not_told_to_take_vllm(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(quantization="none", context=4096, concurrency=4)
    room = replace(room_of(11, base=SHAPES["base"]), on_cpu=True)
    texts = [change.text for advice in advise(fleet, room) for change in advice.changes]
    assert texts
    assert not any("vllm" in text or "awq" in text for text in texts)


@settings(deadline=None, max_examples=40)
@given(
    context=st.sampled_from([1024, 4096, 8192]),
    callers=st.integers(1, 12),
    short_mib=st.integers(1, 4000),
    quantization=QUANTIZATIONS,
)
def test_after_out_of_memory_one_or_both_dials_give_more_than_was_missing(
    make_fleet: MakeFleet, context: int, callers: int, short_mib: int, quantization: str
) -> None:
    fleet = make_fleet(quantization=quantization, context=context, concurrency=callers)
    room, short = room_of(80, base=SHAPES["base"]), short_mib * 2**20
    advice = after_out_of_memory(fleet, "base", room, short)
    if advice is None:
        least = fleet.models["base"].model_copy(update={"context": 512, "concurrency": 1})
        assert room.need(fleet) - room.need(fleet.model_copy(update={"models": {"base": least}})) < 1.5 * short + 2**30
        return
    assert room.need(fleet) - room.need(advice.fleet) >= short
    assert {change.text.split(":")[0] for change in advice.changes} <= {
        "models.base.context",
        "models.base.concurrency",
    }


def test_after_out_of_memory_a_little_is_answered_with_a_little(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(quantization="nf4", context=8192, concurrency=2)
    advice = after_out_of_memory(fleet, "base", room_of(24, base=SHAPES["base"]), 200 * 2**20)
    assert advice is not None
    (change,) = advice.changes
    assert change.text.startswith("models.base.context: 8192 -> ")
    assert advice.fleet.models["base"].context > 6000
