"""The card's memory cut by agent, for every picture of it: weights once with who shares them, then each agent's own part.

An agent's own part is its adapter and its share of the model's cache: all agents of a model have equal shares, as requests are
answered in the order they come. Parts fill the card exactly, and what does not fit goes beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from onecard.catalog.units import format_bytes
from onecard.planner.ledger import Line
from onecard.planner.plan import Plan

Kind = Literal["weights", "agent", "cache", "working", "process", "slack", "reserve", "free"]


@dataclass(frozen=True)
class Part:
    """One piece of the card. `hue` counts the models, None for what belongs to none; `detail` says what is in it.

    `letter` names it where there is no colour: capitals in order, digits after them, nothing for what is free.
    """

    letter: str
    name: str
    detail: str
    bytes: int
    kind: Kind
    hue: int | None = None


def parts_of(plan: Plan) -> tuple[Part, ...]:
    """The card from its first byte to its last: models with their agents, processes, slack, reserve, what is free."""
    parts = [part for hue, key in enumerate(plan.fleet.models) for part in _model(plan, key, hue)]
    process, slack = _split(plan)
    parts.append(Part("", "processes", _names(process), sum(line.bytes for line in process), "process"))
    parts.append(Part("", "allocator slack", "rounding and holes", sum(line.bytes for line in slack), "slack"))
    parts.append(Part("", "reserve", "left for the desktop and others", plan.reserve_bytes, "reserve"))
    parts.append(Part("", "free", "", max(plan.headroom_bytes, 0), "free"))
    letters = iter(ascii_uppercase + "0123456789" + ascii_uppercase.lower())
    return tuple(
        part if part.kind == "free" else Part(next(letters, "+"), *_rest(part)) for part in parts if part.bytes
    )


def _rest(part: Part) -> tuple[str, str, int, Kind, int | None]:
    return part.name, part.detail, part.bytes, part.kind, part.hue


def _model(plan: Plan, key: str, hue: int) -> Iterator[Part]:
    """One model: weights, what each agent has of its own, and what a step works in."""
    lines = plan.serving.of(key).lines
    weights = [line for line in lines if line.kind == "weights"]
    cache = sum(line.bytes for line in lines if line.kind == "cache")
    working = sum(line.bytes for line in lines if line.kind == "working")
    agents = [name for name, agent in plan.fleet.agents.items() if agent.model == key]
    spare = [name for name, agent in plan.fleet.agents.items() if key in agent.fallback]
    size = sum(line.bytes for line in weights)
    yield Part("", f"{key} weights", f"{_forms(weights)}{_shared(agents, spare)}", size, "weights", hue)
    for number, name in enumerate(agents):
        share = cache * (number + 1) // len(agents) - cache * number // len(agents)
        adapter = sum(line.bytes for line in plan.serving.of(name).lines)
        held = [f"adapter {format_bytes(adapter)}"] if adapter else []
        held += [f"cache{' share' if len(agents) > 1 else ''} {format_bytes(share)}"] if share else []
        yield Part("", name, ", ".join(held), share + adapter, "agent", hue)
    if not agents:
        yield Part("", f"{key} cache", "keys and values", cache, "cache", hue)
    yield Part("", f"{key} at work", "a step's own memory at its worst moment", working, "working", hue)


def _forms(weights: Sequence[Line]) -> str:
    """The forms the weights are held in, the one with most bytes first: "nf4+DQ and 16-bit"."""
    sizes: dict[str, int] = {}
    for line in weights:
        form = line.part.rpartition("(")[2].rstrip(")")
        sizes[form] = sizes.get(form, 0) + line.bytes
    return " and ".join(sorted(sizes, key=lambda form: -sizes[form])[:2])


def _shared(agents: Sequence[str], spare: Sequence[str]) -> str:
    """Who answers with these weights."""
    if len(agents) > 1:
        return f", shared by {', '.join(agents)}"
    if agents:
        return f", for {agents[0]}"
    return f", stands in for {', '.join(spare)}" if spare else ", no agent uses it"


def _split(plan: Plan) -> tuple[list[Line], list[Line]]:
    """(lines of the processes, lines of the slack)."""
    lines = [line for line in plan.serving.lines if line.kind == "process"]
    return [line for line in lines if "slack" not in line.part], [line for line in lines if "slack" in line.part]


def _names(lines: Sequence[Line]) -> str:
    return ", ".join(dict.fromkeys(line.part for line in lines))
