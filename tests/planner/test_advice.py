from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onecard.catalog.models import find_model
from onecard.catalog.units import GIB
from onecard.fleet.schema import Fleet
from onecard.planner.advice import Room, advise, largest_concurrency, largest_context, smallest_need, with_model
from onecard.planner.memory import serving_ledger
from onecard.planner.shapes import ModelShape, shape_of_model

MakeFleet = Callable[..., Fleet]

QUANTIZATIONS = st.sampled_from(["none", "int8", "nf4", "awq"])


def room_of(gib: float, **shapes: ModelShape) -> Room:
    return Room(round(gib * GIB), shapes, on_cpu=False)


@settings(deadline=None, max_examples=60)
@given(gib=st.floats(3, 100), context=st.integers(16, 32768), callers=st.integers(1, 32), quantization=QUANTIZATIONS)
def test_the_largest_context_and_concurrency_fit_and_one_more_does_not(
    make_fleet: MakeFleet, mistral: ModelShape, gib: float, context: int, callers: int, quantization: str
) -> None:
    room = room_of(gib, base=mistral)
    fleet = make_fleet(quantization=quantization, context=context, concurrency=callers)
    longest, most = largest_context(fleet, "base", room), largest_concurrency(fleet, "base", room)
    for limit, least, cap, key in ((longest, 16, 32768, "context"), (most, 1, 4096, "concurrency")):
        if limit == 0:
            assert not room.holds(with_model(fleet, "base", **{key: least}))
            continue
        assert room.holds(with_model(fleet, "base", **{key: limit}))
        assert limit == cap or not room.holds(with_model(fleet, "base", **{key: limit + 1}))


@settings(deadline=None, max_examples=40)
@given(
    gib=st.floats(4, 80),
    contexts=st.tuples(st.integers(600, 32768), st.integers(600, 4096)),
    callers=st.tuples(st.integers(1, 16), st.integers(1, 4)),
    quantizations=st.tuples(QUANTIZATIONS, st.sampled_from(["none", "int8"])),
)
def test_every_advice_makes_it_fit_when_it_is_taken(
    mistral: ModelShape,
    gib: float,
    contexts: tuple[int, int],
    callers: tuple[int, int],
    quantizations: tuple[str, str],
) -> None:
    shapes = {"base": mistral, "vision": shape_of_model(find_model("llava-hf/llava-1.5-7b-hf"))}
    models = {
        key: {"id": shape.id, "context": contexts[n], "concurrency": callers[n], "quantization": quantizations[n]}
        for n, (key, shape) in enumerate(shapes.items())
    }
    agents = {"writer": {"model": "base"}, "reader": {"model": "vision", "fallback": ["base"]}}
    fleet = Fleet.model_validate({"name": "t", "card": "l4", "models": models, "agents": agents})
    room = room_of(gib, **shapes)
    need = serving_ledger(fleet, shapes).total_bytes
    offered = advise(fleet, room)
    if need <= room.available_bytes:
        assert offered == ()
    for advice in offered:
        then = serving_ledger(Fleet.model_validate(advice.fleet.model_dump()), shapes).total_bytes
        assert then <= room.available_bytes
        assert need - then == advice.saves_bytes
        assert room.available_bytes - then == advice.headroom_bytes
        assert all(change.text and change.cost for change in advice.changes)
    assert [a.saves_bytes for a in offered] == sorted(a.saves_bytes for a in offered)
    assert len({len(a.changes) for a in offered}) <= 1


@settings(deadline=None, max_examples=30)
@given(gib=st.floats(1, 8), quantization=QUANTIZATIONS)
def test_without_advice_even_the_smallest_form_does_not_fit(
    make_fleet: MakeFleet, mistral: ModelShape, gib: float, quantization: str
) -> None:
    fleet, room = make_fleet(quantization=quantization, context=8192), room_of(gib, base=mistral)
    assume(not room.holds(fleet))
    smallest, _ = smallest_need(fleet, room)
    assert bool(advise(fleet, room)) == (smallest <= room.available_bytes)
    assert smallest <= room.need(fleet)


def test_the_smallest_change_comes_first(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    fleet = make_fleet(quantization="int8", context=8192, concurrency=8)
    offered = advise(fleet, room_of(14, base=mistral))
    assert [advice.changes[0].text.split(":")[0] for advice in offered] == [
        "models.base.context",
        "models.base.concurrency",
    ]
    assert "8192 -> " in offered[0].changes[0].text


def test_context_is_not_lowered_below_what_deadlines_need(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    agent = {"deadline": {"seconds": 60, "prompt_tokens": 7000, "new_tokens": 1000}}
    fleet = make_fleet(agent=agent, quantization="int8", context=8192, concurrency=8)
    for advice in advise(fleet, room_of(14, base=mistral)):
        assert advice.fleet.models["base"].context >= 8000


def test_dropping_a_model_moves_agents_to_their_fallback(mistral: ModelShape) -> None:
    small = shape_of_model(find_model("Salesforce/blip2-opt-2.7b"))
    models = {
        "vision": {"id": "llava-hf/llava-1.5-7b-hf", "quantization": "nf4", "context": 600},
        "small": {"id": small.id, "quantization": "nf4", "context": 600},
    }
    agents = {"reader": {"model": "vision", "fallback": ["small"], "input": "image"}}
    fleet = Fleet.model_validate({"name": "t", "card": "l4", "models": models, "agents": agents})
    shapes = {"vision": shape_of_model(find_model("llava-hf/llava-1.5-7b-hf")), "small": small}
    offered = advise(fleet, Room(4 * GIB, shapes, on_cpu=False))
    moved = next(advice for advice in offered if advice.changes[0].text == "drop models.vision")
    assert moved.fleet.agents["reader"].model == "small"
    assert moved.changes[0].cost == "agent reader is answered by small"


def test_a_base_that_cannot_be_quantized_gets_no_such_advice(make_fleet: MakeFleet) -> None:
    falcon = shape_of_model(find_model("tiiuae/falcon-7b"))
    fleet = make_fleet(id=falcon.id, quantization="int8", context=2048)
    room = Room(8 * GIB, {"base": falcon}, on_cpu=False)
    assert advise(fleet, room) == ()
    assert smallest_need(fleet, room)[0] > 8 * GIB


@pytest.mark.parametrize("engine", ["auto", "vllm"])
def test_each_engine_is_offered_its_own_forms(make_fleet: MakeFleet, mistral: ModelShape, engine: str) -> None:
    fleet = make_fleet(quantization="none", engine=engine, context=600, concurrency=1)
    texts = [change.text for advice in advise(fleet, room_of(9.5, base=mistral)) for change in advice.changes]
    assert any("-> awq" in text if engine == "vllm" else "-> int8" in text for text in texts)
