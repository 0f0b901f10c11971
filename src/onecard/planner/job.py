"""A batch job: when so many requests of an agent are answered, and the probability that this is by a given time.

The model's callers send them as fast as they are answered, beside the model's other agents unless these are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from onecard.errors import InputError
from onecard.fleet.schema import Fleet
from onecard.planner.cache import model_engine
from onecard.planner.chance import chance, spread_range, widened
from onecard.planner.closed_loop import drained_s
from onecard.planner.memory import Shapes
from onecard.planner.requests import answering_of, busy_factors, load_of, with_adapters_of
from onecard.planner.speed import Seconds, SpeedFacts


def finish_s(
    fleet: Fleet,
    name: str,
    shapes: Shapes,
    speed: SpeedFacts,
    requests: int,
    *,
    on_cpu: bool = False,
    callers: int | None = None,
    parts: Mapping[str, float] | None = None,
) -> Seconds | None:
    """Until so many requests of an agent are answered, from an idle model; None where nothing is predicted (remote, no compute rate).

    Lengths that happen to be long matter less the more requests there are: their part of the range falls with the root of the number.
    InputError for fewer than one request.
    """
    if requests < 1:
        raise InputError(f"{requests} requests", where="requests", allowed="1 or more")
    agent = fleet.agents[name]
    if speed.tflops is None or model_engine(fleet.models[agent.model], shapes[agent.model]) == "remote":
        return None
    load = load_of(fleet, name, shapes, callers=callers, parts=parts)
    answering = with_adapters_of(answering_of(fleet, name, shapes, speed, on_cpu=on_cpu), fleet, load)
    everybody = ceil(requests / load.part(name))
    luck = spread_range(load.length_spread / everybody**0.5)
    return Seconds.around(drained_s(load, answering, everybody), widened(busy_factors(answering), luck))


def finish_chance(
    fleet: Fleet,
    name: str,
    shapes: Shapes,
    speed: SpeedFacts,
    requests: int,
    within_s: float,
    *,
    on_cpu: bool = False,
    callers: int | None = None,
    parts: Mapping[str, float] | None = None,
) -> float | None:
    """Probability that so many requests of an agent are answered within so many seconds; `parts={name: 1}`: nobody else asks."""
    needed = finish_s(fleet, name, shapes, speed, requests, on_cpu=on_cpu, callers=callers, parts=parts)
    return None if needed is None else chance(needed, within_s)
