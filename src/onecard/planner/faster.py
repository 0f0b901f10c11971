"""Ways for an agent to keep a deadline it may miss: the same model in another form or engine, each planned and found to fit."""

from __future__ import annotations

from dataclasses import dataclass

from onecard.fleet.schema import Fleet, Quantization
from onecard.planner.advice import Room, with_model
from onecard.planner.cache import is_recurrent, model_engine
from onecard.planner.engine_facts import EngineName
from onecard.planner.requests import Verdict, agent_speed
from onecard.planner.speed import Seconds, SpeedFacts

# In the order of how little they change for the person: another form in the same engine first.
LOCAL_FORMS: tuple[Quantization, ...] = ("none", "int8", "nf4")
VLLM_FORMS: tuple[Quantization, ...] = ("none", "fp8", "awq")
OFFERED = 2


@dataclass(frozen=True)
class Faster:
    """One way: the change of the fleet file, and the time and verdict it leads to with all callers at once."""

    agent: str
    change: str
    busy: Seconds
    verdict: Verdict


def faster(fleet: Fleet, name: str, room: Room, speed: SpeedFacts) -> tuple[Faster, ...]:
    """Ways that fit and bring a late or unclear agent into its deadline; those that make it unclear only where none is sure."""
    now = agent_speed(fleet, name, room.shapes, speed, on_cpu=room.on_cpu)
    if now.verdict not in ("misses", "unclear"):
        return ()
    ways = []
    for engine, form in _others(fleet, now.model, room):
        changed = with_model(fleet, now.model, engine=engine, quantization=form, double_quantization=True)
        then = agent_speed(changed, name, room.shapes, speed, on_cpu=room.on_cpu)
        if then.busy is not None and then.verdict != "misses" and room.holds(changed):
            ways.append(
                Faster(name, f"models.{now.model}: {{engine: {engine}, quantization: {form}}}", then.busy, then.verdict)
            )
    sure = [way for way in ways if way.verdict == "meets"]
    hoped = ways if now.verdict == "misses" else []
    return tuple((sure or hoped)[:OFFERED])


def _others(fleet: Fleet, key: str, room: Room) -> list[tuple[EngineName, Quantization]]:
    """Every engine and form the model could be in, apart from the one it is in."""
    spec, shape = fleet.models[key], room.shapes[key]
    ways: list[tuple[EngineName, Quantization]] = []
    if not is_recurrent(shape):
        ways += [("local", form) for form in LOCAL_FORMS]
    if not room.on_cpu:
        ways += [("vllm", form) for form in VLLM_FORMS if form != "fp8" or room.fp8]
    here = model_engine(spec, shape)
    ways.sort(key=lambda way: way[0] != here)  # stable: its own engine first
    return [way for way in ways if way != (here, spec.quantization)]
