"""Ways for an agent to keep a deadline it may miss: the same model in another form or engine, each planned and found to fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from onecard.fleet.schema import Fleet, Quantization
from onecard.planner.cache import is_recurrent, model_engine
from onecard.planner.chance import Verdict
from onecard.planner.engine_facts import EngineName
from onecard.planner.levers import can_be
from onecard.planner.requests import AgentSpeed, agent_speed, answering_of
from onecard.planner.room import FLEETS_KEPT, Asked, Room, with_model
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


def faster(fleet: Fleet, name: str, room: Room, speed: SpeedFacts, now: AgentSpeed | None = None) -> tuple[Faster, ...]:
    """Ways that fit and bring a late or unclear agent into its deadline; those that make it unclear only where none is sure.

    `now` is the agent's speed as the fleet is, reckoned here where it is not given. Stops at the first OFFERED that are sure.
    """
    now = now or agent_speed(fleet, name, room.shapes, speed, on_cpu=room.on_cpu)
    if now.verdict not in ("misses", "unclear") or now.deadline_s is None:
        return ()
    # Among others a request takes no less than alone, so only ways that are in time alone need be reckoned with everybody asking.
    limit_s = now.deadline_s if now.percentile >= 50 else inf
    asked = Asked(fleet, room.shapes, room.on_cpu, room.context)
    held = [way for way in _ways(asked, now.model, room.fp8) if way.need_bytes <= room.available_bytes]
    tries = [(way, _alone(way, name, speed, now)) for way in held]
    sure = _judged([way for way, alone in tries if alone.high <= limit_s], name, speed, lambda v: v == "meets")
    if sure or now.verdict == "unclear":
        return sure
    return _judged([way for way, alone in tries if alone.low <= limit_s], name, speed, lambda v: v != "misses")


@dataclass(frozen=True, eq=False)
class _Way:
    """The fleet with one model in another engine or form, which can hold it; `text` is the change, `need_bytes` what it takes."""

    text: str
    asked: Asked
    need_bytes: int


@lru_cache(maxsize=FLEETS_KEPT)
def _ways(asked: Asked, key: str, fp8: bool) -> tuple[_Way, ...]:
    """Every way there is for one model, on whatever card: comparing cards looks them up once."""
    fleet, room = asked.fleet, Room(0, asked.shapes, asked.on_cpu, fp8, asked.context)
    found = []
    for engine, form in _others(fleet, key, room):
        changed = with_model(fleet, key, engine=engine, quantization=form, double_quantization=True)
        if engine == "local":
            changed = with_model(changed, key, kv_cache="auto")
        if can_be(changed, key, room):
            text = f"models.{key}: {{engine: {engine}, quantization: {form}}}"
            found.append(_Way(text, Asked(changed, asked.shapes, asked.on_cpu, asked.context), room.need(changed)))
    return tuple(found)


def _judged(
    ways: Sequence[_Way], name: str, speed: SpeedFacts, wanted: Callable[[Verdict], bool]
) -> tuple[Faster, ...]:
    """The first OFFERED of the ways whose verdict is wanted."""
    found: list[Faster] = []
    for way in ways:
        then = agent_speed(way.asked.fleet, name, way.asked.shapes, speed, on_cpu=way.asked.on_cpu)
        if then.busy is not None and wanted(then.verdict):
            found.append(Faster(name, way.text, then.busy, then.verdict))
        if len(found) == OFFERED:
            break
    return tuple(found)


def _alone(way: _Way, name: str, speed: SpeedFacts, now: AgentSpeed) -> Seconds:
    """A lone caller's typical request, which takes no longer than the percentile that is asked for."""
    asked = way.asked
    answering = answering_of(asked.fleet, name, asked.shapes, speed, on_cpu=asked.on_cpu)
    step = answering.step_s(1, now.prompt_tokens + now.new_tokens // 2)
    return Seconds.around(answering.prefill_s(1, now.prompt_tokens) + step * (now.new_tokens - 1), answering.factors)


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
