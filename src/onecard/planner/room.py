"""The room on a card, and how far one model can go in it: largest context, most callers, and both against each other.

Every answer is found on the real ledger. Memory never falls when context or callers rise, so a few probes enclose the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from onecard.fleet.schema import Fleet
from onecard.planner.engine_facts import Taken
from onecard.planner.ledger import Ledger
from onecard.planner.memory import Shapes, serving_ledger

CONTEXT_CAP = 1_048_576  # a model that states no limit is not asked for more
CONCURRENCY_CAP = 4096
LEAST_CONTEXT, LEAST_CONCURRENCY = 16, 1
CONTEXTS_SHOWN = tuple(2**n for n in range(10, 21))
LINES = 12
FLEETS_KEPT = 256
CALLERS_SHOWN = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Room:
    """What a fleet is held against: the bytes there are, the models' shapes, and whether the card is a CPU.

    `context`: what a process was seen to take of the card beside torch's memory.
    """

    available_bytes: int
    shapes: Shapes
    on_cpu: bool
    fp8: bool = False
    context: Taken | None = None

    def ledger(self, fleet: Fleet) -> Ledger:
        return serving_ledger(fleet, self.shapes, on_cpu=self.on_cpu, context=self.context)

    def need(self, fleet: Fleet) -> int:
        return _need(Asked(fleet, self.shapes, self.on_cpu, self.context))

    def spare(self, fleet: Fleet) -> int:
        """What is left; negative: what is missing."""
        return self.available_bytes - self.need(fleet)

    def holds(self, fleet: Fleet) -> bool:
        return self.spare(fleet) >= 0


class Asked:
    """A fleet as its need depends on it: what its models are asked for, its very agents and shapes. The same whatever the card."""

    def __init__(self, fleet: Fleet, shapes: Shapes, on_cpu: bool, context: Taken | None = None) -> None:
        self.fleet, self.shapes, self.on_cpu, self.context = fleet, shapes, on_cpu, context
        known = tuple(id(shapes.get(key)) for key in fleet.models)
        agents = tuple((name, id(agent)) for name, agent in fleet.agents.items())
        self.key = (tuple(fleet.models.items()), agents, known, on_cpu, context)
        self.hash = hash(self.key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Asked) and self.key == other.key


@lru_cache(maxsize=8192)
def _need(asked: Asked) -> int:
    """Bytes of a fleet. Remembered, because searches ask for the same fleets again and again, and comparisons of cards too.

    What is remembered holds on to agents and shapes, so that the identities in its key stay theirs.
    """
    return serving_ledger(asked.fleet, asked.shapes, on_cpu=asked.on_cpu, context=asked.context).total_bytes


@dataclass(frozen=True)
class Frontier:
    """Context against callers for one model: (context, most callers) and (callers, largest context). 0: not even the least fits."""

    model: str
    by_context: tuple[tuple[int, int], ...]
    by_callers: tuple[tuple[int, int], ...]


def with_model(fleet: Fleet, key: str, **changes: object) -> Fleet:
    """The fleet with some keys of one model changed; not validated again."""
    models = {**fleet.models, key: fleet.models[key].model_copy(update=changes)}
    return fleet.model_copy(update={"models": models})


def context_limit(key: str, room: Room) -> int:
    """The longest context a model can be asked for, tokens."""
    return room.shapes[key].max_context or CONTEXT_CAP


def largest_context(fleet: Fleet, key: str, room: Room) -> int:
    """Most tokens of context at this concurrency, up to the model's own limit; 0 when not even 16 fit."""
    return largest(LEAST_CONTEXT, context_limit(key, room), _spare_at(fleet, key, room, "context"))


def largest_concurrency(fleet: Fleet, key: str, room: Room) -> int:
    """Most callers at this context; 0 when not even one fits."""
    return largest(LEAST_CONCURRENCY, CONCURRENCY_CAP, _spare_at(fleet, key, room, "concurrency"))


def _spare_at(fleet: Fleet, key: str, room: Room, dial: str) -> Callable[[int], int]:
    """What is left with one number of one model at a value."""
    known = _needs(Asked(fleet, room.shapes, room.on_cpu, room.context), key, dial)

    def spare(value: int) -> int:
        if value not in known:
            known[value] = room.need(with_model(fleet, key, **{dial: value}))
        return room.available_bytes - known[value]

    return spare


@lru_cache(maxsize=FLEETS_KEPT)
def _needs(asked: Asked, key: str, dial: str) -> dict[int, int]:
    """Bytes of a fleet by the value of one number: searches on many cards look at the same ones first."""
    return {}


def frontier(fleet: Fleet, key: str, room: Room) -> Frontier:
    """For a few contexts the most callers, for a few numbers of callers the largest context, everything else as it is.

    The fleet's own context and concurrency are always among them; what no longer fits is shown once.
    """
    spec, limit = fleet.models[key], context_limit(key, room)
    contexts = sorted({*(tokens for tokens in CONTEXTS_SHOWN if tokens < limit), limit, spec.context})
    by_context = [(n, largest_concurrency(with_model(fleet, key, context=n), key, room)) for n in contexts]
    callers = sorted({*CALLERS_SHOWN, spec.concurrency})
    by_callers = [(n, largest_context(with_model(fleet, key, concurrency=n), key, room)) for n in callers]
    return Frontier(key, _until_nothing(by_context), _until_nothing(by_callers))


def _until_nothing(rows: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The rows up to the first where nothing fits."""
    end = next((n + 1 for n, (_, most) in enumerate(rows) if most == 0), len(rows))
    return tuple(rows[:end])


def largest(low: int, high: int, spare: Callable[[int], int]) -> int:
    """The largest number from low to high with spare(number) >= 0; 0 when low has none. `spare` never rises.

    Where the straight line between the ends crosses zero is looked at next, an end that stays counting half (the Illinois method);
    after LINES looks, the middle.
    """
    at_low = spare(low)
    if at_low < 0:
        return 0
    at_high = spare(high)
    if at_high >= 0:
        return high
    looks, stayed = 0, ""
    while high - low > 1:
        looks += 1
        crossing = low + (high - low) * at_low // (at_low - at_high) if looks <= LINES else (low + high) // 2
        guess = min(max(crossing, low + 1), high - 1)
        left = spare(guess)
        if left >= 0:
            low, at_low = guess, left
            at_high = min(-1, at_high // 2) if stayed == "high" else at_high
            stayed = "high"
        else:
            high, at_high = guess, left
            at_low = at_low // 2 if stayed == "low" else at_low
            stayed = "low"
    return low
