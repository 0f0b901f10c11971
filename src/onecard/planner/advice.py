"""Limits and advice, found by trying on the real ledger: the largest context and concurrency, and what makes a fleet fit.

Every piece of advice carries the fleet it leads to, so that it can be planned again; none is offered that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from onecard.fleet.schema import AgentSpec, Fleet, ModelSpec, Quantization
from onecard.planner.cache import is_recurrent, model_engine
from onecard.planner.memory import Shapes, serving_ledger
from onecard.planner.shapes import ModelShape
from onecard.planner.weights import form_name, form_of

CONTEXT_CAP = 1_048_576  # a model that states no limit is not asked for more
CONCURRENCY_CAP = 4096
LEAST_CONTEXT = 512  # no advice to go below, unless the fleet is there already
MOST_CHANGES = 3
STATES_KEPT = 24  # fleets a search goes on from at each depth
OFFERED = 4


@dataclass(frozen=True)
class Room:
    """What a fleet is held against: the bytes there are, the models' shapes, and whether the card is a CPU."""

    available_bytes: int
    shapes: Shapes
    on_cpu: bool
    fp8: bool = False

    def need(self, fleet: Fleet) -> int:
        return serving_ledger(fleet, self.shapes, on_cpu=self.on_cpu).total_bytes

    def holds(self, fleet: Fleet) -> bool:
        return self.need(fleet) <= self.available_bytes


@dataclass(frozen=True)
class Change:
    """One change of the fleet file, and what it costs in words."""

    text: str
    cost: str


@dataclass(frozen=True)
class Advice:
    """Changes that together make the fleet fit. `saves_bytes` is what they save, `headroom_bytes` what is left then."""

    changes: tuple[Change, ...]
    saves_bytes: int
    headroom_bytes: int
    fleet: Fleet = field(repr=False)


def with_model(fleet: Fleet, key: str, **changes: object) -> Fleet:
    """The fleet with some keys of one model changed; not validated again."""
    models = {**fleet.models, key: fleet.models[key].model_copy(update=changes)}
    return fleet.model_copy(update={"models": models})


def largest_context(fleet: Fleet, key: str, room: Room) -> int:
    """Most tokens of context at this concurrency, up to the model's own limit; 0 when not even 16 fit."""
    limit = room.shapes[key].max_context or CONTEXT_CAP
    return _largest(16, limit, lambda context: room.holds(with_model(fleet, key, context=context)))


def largest_concurrency(fleet: Fleet, key: str, room: Room) -> int:
    """Most callers at this context; 0 when not even one fits."""
    return _largest(1, CONCURRENCY_CAP, lambda callers: room.holds(with_model(fleet, key, concurrency=callers)))


def _largest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest number from low to high that `holds`, for a test that stays false once it is; 0 when none does."""
    if not holds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def advise(fleet: Fleet, room: Room) -> tuple[Advice, ...]:
    """The fewest changes that make a fleet fit, those that save least first; empty when it fits or nothing helps."""
    need = room.need(fleet)
    if need <= room.available_bytes:
        return ()
    states: dict[frozenset[str], tuple[Fleet, tuple[Change, ...]]] = {frozenset(): (fleet, ())}
    for _ in range(MOST_CHANGES):
        found: dict[frozenset[str], Advice] = {}
        onward: dict[frozenset[str], tuple[Fleet, tuple[Change, ...]]] = {}
        for state, taken in states.values():
            for change, changed in _levers(state, room):
                changes = (*taken, change)
                name = frozenset(c.text for c in changes)
                left = room.need(changed)
                if left <= room.available_bytes:
                    found.setdefault(name, Advice(changes, need - left, room.available_bytes - left, changed))
                else:
                    onward[name] = (changed, changes)
        if found:
            return tuple(sorted(found.values(), key=lambda advice: advice.saves_bytes)[:OFFERED])
        smallest = sorted(onward, key=lambda name: room.need(onward[name][0]))[:STATES_KEPT]
        states = {name: onward[name] for name in smallest}
    return _everything(fleet, room)


def smallest_need(fleet: Fleet, room: Room) -> tuple[int, Fleet]:
    """Bytes with every model in its lowest form, one caller and least context, and that fleet: what nothing goes below."""
    for key, spec in fleet.models.items():
        forms = _lower_forms(spec, room.shapes[key], room)
        if forms:
            fleet = with_model(fleet, key, quantization=forms[-1], double_quantization=True)
        elif spec.quantization == "nf4":
            fleet = with_model(fleet, key, double_quantization=True)
        fleet = with_model(fleet, key, concurrency=1, context=_least_context(fleet, key))
    return room.need(fleet), fleet


def _everything(fleet: Fleet, room: Room) -> tuple[Advice, ...]:
    """The smallest form of the whole fleet as one advice, where a search of few changes found nothing."""
    need, (least, smallest) = room.need(fleet), smallest_need(fleet, room)
    if least > room.available_bytes:
        return ()
    changes = []
    for key, now in fleet.models.items():
        then = smallest.models[key]
        for name in ("quantization", "double_quantization", "context", "concurrency"):
            old, new = getattr(now, name), getattr(then, name)
            if old != new:
                changes.append(Change(f"models.{key}.{name}: {old} -> {new}", "the least there is"))
    return (Advice(tuple(changes), need - least, room.available_bytes - least, smallest),)


def _levers(fleet: Fleet, room: Room) -> Iterator[tuple[Change, Fleet]]:
    """Every single change that lowers the need."""
    for key, spec in fleet.models.items():
        shape = room.shapes[key]
        if model_engine(spec, shape) == "remote":
            continue
        yield from _context_lever(fleet, key, room)
        yield from _concurrency_lever(fleet, key, room)
        yield from _form_levers(fleet, key, room)
        yield from _drop_lever(fleet, key)


def _context_lever(fleet: Fleet, key: str, room: Room) -> Iterator[tuple[Change, Fleet]]:
    """Down to what fits, rounded to a readable figure, or to the least that is useful."""
    context, least = fleet.models[key].context, _least_context(fleet, key)
    if least >= context:
        return
    target = least
    if room.holds(with_model(fleet, key, context=least)):
        fitting = largest_context(fleet, key, room)
        target = max(least, fitting // 256 * 256 if fitting >= 1024 else fitting // 16 * 16)
    cost = f"prompt and answer together at most {target} tokens"
    yield Change(f"models.{key}.context: {context} -> {target}", cost), with_model(fleet, key, context=target)


def _concurrency_lever(fleet: Fleet, key: str, room: Room) -> Iterator[tuple[Change, Fleet]]:
    callers = fleet.models[key].concurrency
    if callers == 1:
        return
    target = largest_concurrency(fleet, key, room) if room.holds(with_model(fleet, key, concurrency=1)) else 1
    cost = f"at most {target} answered at once, others wait"
    yield Change(f"models.{key}.concurrency: {callers} -> {target}", cost), with_model(fleet, key, concurrency=target)


def _form_levers(fleet: Fleet, key: str, room: Room) -> Iterator[tuple[Change, Fleet]]:
    spec = fleet.models[key]
    if spec.quantization == "nf4" and not spec.double_quantization:
        change = Change(f"models.{key}.double_quantization: false -> true", "no loss worth speaking of")
        yield change, with_model(fleet, key, double_quantization=True)
    held = form_name(form_of(spec, room.shapes[key]), spec.double_quantization)
    for lower in _lower_forms(spec, room.shapes[key], room):
        change = Change(f"models.{key}.quantization: {held} -> {lower}", "may lose quality: evaluate it")
        yield change, with_model(fleet, key, quantization=lower, double_quantization=True)


def _lower_forms(spec: ModelSpec, shape: ModelShape, room: Room) -> tuple[Quantization, ...]:
    """The smaller forms this model's engine can hold, the largest first."""
    form = form_of(spec, shape)
    if model_engine(spec, shape) == "local" and not is_recurrent(shape):
        ladder: dict[str, tuple[Quantization, ...]] = {"none": ("int8", "nf4"), "fp8": ("nf4",), "int8": ("nf4",)}
        return ladder.get(form, ()) if shape.quantizable else ()
    to_awq: tuple[Quantization, ...] = ("awq",)
    return {"none": ("fp8", *to_awq) if room.fp8 else to_awq, "fp8": to_awq, "int8": to_awq}.get(form, ())


def _least_context(fleet: Fleet, key: str) -> int:
    """Context that the agents' own deadlines need, and not below what is useful at all."""
    wanted = [
        agent.deadline.prompt_tokens + agent.deadline.new_tokens
        for agent in fleet.agents.values()
        if agent.deadline and key in (agent.model, *agent.fallback)
    ]
    return min(fleet.models[key].context, max([LEAST_CONTEXT, *wanted]))


def _drop_lever(fleet: Fleet, key: str) -> Iterator[tuple[Change, Fleet]]:
    """Without this model: agents go to their first fallback, and without one they go too."""
    agents: dict[str, AgentSpec] = {}
    for name, agent in fleet.agents.items():
        fallback = tuple(other for other in agent.fallback if other != key)
        if agent.model != key:
            agents[name] = agent.model_copy(update={"fallback": fallback})
        elif fallback:
            agents[name] = agent.model_copy(update={"model": fallback[0], "fallback": fallback[1:]})
    models = {name: spec for name, spec in fleet.models.items() if name != key}
    if not models or not agents:
        return
    gone = [name for name in fleet.agents if name not in agents]
    moved = [name for name, agent in agents.items() if fleet.agents[name].model != agent.model]
    cost = f"agent {', '.join(gone)} is gone" if gone else "its agents lose a fallback"
    if moved and not gone:
        cost = f"agent {', '.join(moved)} is answered by {agents[moved[0]].model}"
    yield Change(f"drop models.{key}", cost), fleet.model_copy(update={"models": models, "agents": agents})
