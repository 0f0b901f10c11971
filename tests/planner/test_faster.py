from __future__ import annotations

from collections.abc import Callable

import pytest

from onecard.catalog.units import GIB
from onecard.fleet.schema import Fleet
from onecard.planner.faster import OFFERED, faster
from onecard.planner.requests import agent_speed
from onecard.planner.room import Room
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import SpeedFacts

MakeFleet = Callable[..., Fleet]
SPEED = SpeedFacts(936.2, 71.2, 10.0, "assumed", "a test")
LATE = {"deadline": {"seconds": 4, "prompt_tokens": 600, "new_tokens": 120}}


@pytest.mark.parametrize("gib", [24, 10, 4])
def test_every_way_fits_and_keeps_the_deadline_when_it_is_taken(
    make_fleet: MakeFleet, mistral: ModelShape, gib: int
) -> None:
    fleet, room = make_fleet(agent=LATE, quantization="int8", context=1024), Room(gib * GIB, {"base": mistral}, False)
    assert agent_speed(fleet, "writer", room.shapes, SPEED).verdict == "misses"
    ways = faster(fleet, "writer", room, SPEED)
    assert len(ways) <= OFFERED
    assert bool(ways) == (gib > 4)
    for way in ways:
        engine, form = (part.split(": ")[1] for part in way.change.split("{")[1].rstrip("}").split(", "))
        model = fleet.models["base"].model_copy(update={"engine": engine, "quantization": form})
        then = fleet.model_copy(update={"models": {"base": model}})
        assert room.holds(then)
        assert agent_speed(then, "writer", room.shapes, SPEED).verdict == way.verdict != "misses"


def test_an_agent_in_time_needs_no_other_way(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    in_time = {"deadline": {"seconds": 400, "prompt_tokens": 600, "new_tokens": 120}}
    assert faster(make_fleet(agent=in_time), "writer", Room(24 * GIB, {"base": mistral}, False), SPEED) == ()


def test_a_cache_that_only_vllm_holds_does_not_stop_the_local_engine(
    make_fleet: MakeFleet, mistral: ModelShape
) -> None:
    fleet = make_fleet(agent=LATE, quantization="none", engine="vllm", kv_cache="fp8", concurrency=4)
    ways = faster(fleet, "writer", Room(40 * GIB, {"base": mistral}, False, True), SPEED)
    assert ways
    assert all("engine" in way.change for way in ways)
