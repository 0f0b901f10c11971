"""What makes a fleet fit: the fewest changes of its file, found by searching over the real ledger.

First the fewest changes, then the least risk, then what saves least; more changes are told only where they risk less. Every advice
carries the fleet it leads to, so that it can be planned again; none is offered that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from onecard.fleet.schema import Fleet
from onecard.planner.levers import LOST, RISKS, UNANSWERED, Risk, model_levers
from onecard.planner.requests import AgentSpeed, agent_speed
from onecard.planner.room import Room as Room
from onecard.planner.room import largest_concurrency as largest_concurrency
from onecard.planner.room import largest_context as largest_context
from onecard.planner.search import Search, Settings, applied, at_least
from onecard.planner.speed import SpeedFacts

MOST_CHANGES = 4
OFFERED_OF_A_COUNT = 3
AFTER_OUT_OF_MEMORY = 0.1  # of a model's cache and work kept free beside what was missing: the step asks for more later


@dataclass(frozen=True)
class Change:
    """One change of the fleet file. `saves_bytes` on the ledger after the changes before it; `reason` says why the risk is what it is."""

    text: str
    cost: str
    saves_bytes: int
    risk: Risk
    reason: str


@dataclass(frozen=True)
class Advice:
    """Changes that together make the fleet fit. `saves_bytes` is what they save, `headroom_bytes` what is left then.

    `effects`: agents whose deadline verdict becomes another, in words.
    """

    changes: tuple[Change, ...]
    saves_bytes: int
    headroom_bytes: int
    fleet: Fleet = field(repr=False)
    effects: tuple[str, ...] = ()

    @property
    def risk(self) -> Risk:
        """The gravest of its changes' risks."""
        return max((change.risk for change in self.changes), key=RISKS.index)


def advise(
    fleet: Fleet, room: Room, speed: SpeedFacts | None = None, agents: Sequence[AgentSpeed] = ()
) -> tuple[Advice, ...]:
    """Ways to make a fleet fit, the fewest changes first; empty when it fits or nothing helps.

    With `speed`, each says which deadlines turn out otherwise; `agents` are the fleet's as it is, where they are known already.
    Exact as long as fewer than SETS_KEPT sets of MOST_CHANGES changes could do; beyond that, and where more changes are needed, what
    is offered fits but may not be the least.
    """
    if room.holds(fleet):
        return ()
    search = Search(fleet, room)
    offered: list[Settings] = []
    gravity = LOST
    for count in range(1, MOST_CHANGES + 1):
        found = search.tried(search.sets(count, gravity))
        offered += found[:OFFERED_OF_A_COUNT]
        gravity = min([gravity + 1, *(search.gravity(settings) for settings in found)]) - 1
        if gravity < 0:
            break
    if gravity == LOST - 1 or not offered:  # no few changes keep every agent: perhaps many do
        offered += [settings for settings in search.everything() if search.gravity(settings) <= gravity]
    known = {agent.agent: agent for agent in agents}
    return tuple(_told(search, settings, speed, known) for settings in offered)


def smallest_need(fleet: Fleet, room: Room) -> tuple[int, Fleet]:
    """Bytes with every model in its smallest form, one caller and least context, and that fleet."""
    smallest = Search(fleet, room).smallest()
    changed = applied(fleet, at_least(smallest))
    return room.need(changed), changed


def after_out_of_memory(fleet: Fleet, key: str, room: Room, short_by_bytes: int) -> Advice | None:
    """What to lower, and to what, when the card ran out of memory although the plan fitted; None when neither dial of the model helps.

    The card gave what the plan said less what was missing, and a share of the working memory more, for a step asks again after the
    allocation that failed. The dial that keeps the larger share of what it was at comes first, both together if neither is enough.
    """
    working = sum(
        line.bytes for line in room.ledger(fleet).lines if line.owner == key and line.kind in ("working", "cache")
    )
    given = min(room.available_bytes, room.need(fleet)) - short_by_bytes - round(AFTER_OUT_OF_MEMORY * working)
    room = replace(room, available_bytes=given)
    search = Search(fleet, room)
    dials = [lever for lever in model_levers(fleet, key, room) if lever.is_dial]
    ways = [found for sets in ([(dial,) for dial in dials], [tuple(dials)]) for found in search.tried(sets) if dials]
    if not ways:
        return None
    fewest = min(len(way) for way in ways)
    best = max((way for way in ways if len(way) == fewest), key=lambda way: way[0].value / way[0].lever.now)
    return _told(search, best, None, {})


def _told(search: Search, settings: Settings, speed: SpeedFacts | None, known: dict[str, AgentSpeed]) -> Advice:
    """The settings as changes, each with what it saves after those before it."""
    changes: list[Change] = []
    fleet, spare = search.fleet, search.spare(search.fleet)
    for setting in settings:
        lever, then = setting.lever, setting.apply(fleet)
        after = search.spare(then)
        lost = len(then.agents) < len(fleet.agents)  # also where an earlier change took the fallback
        risk: Risk = "real" if lost else lever.risk
        text, cost = lever.text(setting.value), lever.cost(fleet, setting.value)
        changes.append(Change(text, cost, after - spare, risk, UNANSWERED if lost else lever.reason))
        fleet, spare = then, after
    effects = () if speed is None else tuple(_effects(search.fleet, fleet, search.room, speed, known))
    return Advice(tuple(changes), spare - search.spare(search.fleet), spare, fleet, effects)


def _effects(before: Fleet, after: Fleet, room: Room, speed: SpeedFacts, known: dict[str, AgentSpeed]) -> Iterable[str]:
    """Agents whose deadline is judged otherwise in the changed fleet, those who wait for a turn reckoned in.

    `known` has agents as they are before, and is added to.
    """
    for name, agent in after.agents.items():
        if agent.deadline is None or _asks_the_same(before, after, name):
            continue
        if name not in known:
            known[name] = agent_speed(before, name, room.shapes, speed, on_cpu=room.on_cpu)
        was = known[name]
        now = agent_speed(after, name, room.shapes, speed, on_cpu=room.on_cpu, callers=was.callers)
        if now.verdict != was.verdict:
            yield f"{name}: deadline of {agent.deadline.seconds:g} s {was.verdict} -> {now.verdict}"


def _asks_the_same(before: Fleet, after: Fleet, name: str) -> bool:
    """Whether nothing is changed of what the agent's times follow from: its model, and who shares it."""
    key = after.agents[name].model

    def shared(fleet: Fleet) -> list[tuple[str, str | None]]:
        return [(other, agent.adapter) for other, agent in fleet.agents.items() if agent.model == key]

    return before.models[key] == after.models[key] and shared(before) == shared(after)
