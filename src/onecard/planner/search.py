"""The search behind advice: sets of levers that could make a fleet fit, tried on the real ledger, dials as high as they go.

What a set saves is looked up model by model first, each alone on the card, which is cheap and off by little; only sets that could do
by that are tried on the whole fleet. So a search is exact while there are few of them, and bounded in time when there are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from onecard.catalog.units import GIB, MIB
from onecard.fleet.schema import Fleet
from onecard.planner.levers import ADAPTER, FORM, HELD, LOST, Lever, can_be, model_levers, reserve_lever
from onecard.planner.room import Asked, Room, largest

SETS_KEPT = 2000  # sets of changes that a search holds at once; small fleets never have so many
SETS_TRIED = 48  # and of those, how many that fit are kept
# One model's savings are looked up alone; in company they differ by less than this, because processes and slack are shared.
SHARED_BYTES = 64 * MIB


@dataclass(frozen=True)
class Setting:
    """A lever, and what it is set to: a dial's value; 0 for a switch that is taken."""

    lever: Lever
    value: int

    def apply(self, fleet: Fleet) -> Fleet:
        return self.lever.turn(fleet, self.value)


Levers = tuple[Lever, ...]
Settings = tuple[Setting, ...]


class Search:
    """Sets of levers of one fleet: which could do, which do, and how far their dials must go."""

    def __init__(self, fleet: Fleet, room: Room) -> None:
        self.fleet, self.room = fleet, room
        self.short = -room.spare(fleet)
        asked = Asked(fleet, room.shapes, room.on_cpu, room.context)
        self.groups = [_group(asked, key, room.fp8) for key in fleet.models]
        reserve = reserve_lever(fleet)
        self.shared: Levers = (reserve,) if reserve else ()

    def spare(self, fleet: Fleet) -> int:
        """What is left on the card; a smaller reserve leaves more."""
        return self.room.spare(fleet) + round((self.fleet.reserve_gib - fleet.reserve_gib) * GIB)

    def gravity(self, settings: Iterable[Setting]) -> int:
        """The gravest of the levers, and LOST where they leave an agent out together."""
        taken = tuple(settings)
        several = sum(setting.lever.drops for setting in taken) > 1
        if several and len(applied(self.fleet, taken).agents) < len(self.fleet.agents):
            return LOST
        return max(setting.lever.gravity for setting in taken)

    def sets(self, count: int, gravity: int) -> list[Levers]:
        """Sets of so many levers, none graver, that could make it fit by what each saves alone; the gentlest first."""
        tables = [[group.saving(n, gravity) for n in range(count + 1)] for group in self.groups]
        shared = [lever for lever in self.shared if lever.gravity <= gravity]
        freed: list[tuple[int, Levers]] = [(round((lever.now - lever.least) / 100 * GIB), (lever,)) for lever in shared]
        tables.append([[(0, ())], freed, *([[]] * (count - 1))])
        # most[i][n]: what tables from i on save at most with at most n levers
        most = [[0] * (count + 1) for _ in range(len(tables) + 1)]
        for i in reversed(range(len(tables))):
            for n in range(count + 1):
                most[i][n] = max(
                    rows[0][0] + most[i + 1][n - taken] for taken, rows in enumerate(tables[i][: n + 1]) if rows
                )
        wanted = self.short - SHARED_BYTES * len(self.groups)
        found: list[tuple[int, Levers]] = []

        def walk(i: int, left: int, saved: int, levers: Levers) -> None:
            if i == len(tables):
                if left == 0:
                    found.append((saved, levers))
                return
            for taken in range(left + 1):
                for saves, more in tables[i][taken]:
                    if saved + saves + most[i + 1][left - taken] < wanted or len(found) >= SETS_KEPT:
                        break
                    walk(i + 1, left - taken, saved + saves, levers + more)

        walk(0, count, 0, ())

        def rank(entry: tuple[int, Levers]) -> tuple[int, bool, int]:
            saved, levers = entry
            return self.gravity(at_least(levers)), not any(lever.is_dial for lever in levers), saved

        found.sort(key=rank)
        return [levers for saved, levers in found if rank((saved, levers))[0] <= gravity]

    def tried(self, sets: Iterable[Levers]) -> list[Settings]:
        """Those that really fit, their dials as high as they go, the least risk first and what saves least before what saves more."""
        fitting = []
        for levers in sets:
            if settings := self.fitted(levers):
                fitting.append(settings)
            if len(fitting) == SETS_TRIED:
                break
        fitting = [one for one in fitting if not any(_dominates(other, one) for other in fitting if other is not one)]
        need = {id(settings): self.room.need(applied(self.fleet, settings)) for settings in fitting}
        return sorted(fitting, key=lambda settings: (self.gravity(settings), -need[id(settings)]))

    def fitted(self, levers: Levers) -> Settings | None:
        """Every dial as high as the card allows: first all by the same share, then one after the other. None when it does not fit."""
        levers = tuple(sorted(levers, key=lambda lever: lever.order))

        def at(share: int) -> list[Setting]:
            return [Setting(lever, lever.least + share * (lever.now - lever.least) // 1024) for lever in levers]

        if not self._possible(at(0)) or self.spare(applied(self.fleet, at(0))) < 0:
            return None
        dials = [n for n, lever in enumerate(levers) if lever.is_dial]
        settings = at(0)
        if len(dials) > 1:
            settings = at(largest(1, 1023, lambda share: self.spare(applied(self.fleet, at(share)))))
        before: list[Setting] = []
        while before != settings:  # what one dial's rounding leaves may be enough for a step of another
            before = list(settings)
            for n in dials:
                settings[n] = self._raised(settings, n)
        if any(settings[n].value >= levers[n].now for n in dials):
            return None  # it fits with this dial left alone, and that is another set
        return tuple(settings)

    def _raised(self, settings: list[Setting], n: int) -> Setting:
        """One dial as high as it goes with the others as they are, rounded down to a figure that is easy to read."""
        lever, low = settings[n].lever, settings[n].value

        def spare(value: int) -> int:
            return self.spare(applied(self.fleet, [*settings[:n], Setting(lever, value), *settings[n + 1 :]]))

        value = largest(low, lever.now, spare) or low
        if lever.place.endswith(".context") and value < lever.now:
            value = max(low, value // 256 * 256 if value >= 1024 else value // 16 * 16)
        return Setting(lever, value)

    def _possible(self, settings: Sequence[Setting]) -> bool:
        """Whether engines can hold what the levers ask, and somebody is left to answer."""
        changed = applied(self.fleet, settings)
        touched = {setting.lever.model for setting in settings if setting.lever.order in HELD}
        return bool(changed.models and changed.agents) and all(
            can_be(changed, key, self.room) for key in touched & set(changed.models)
        )

    def smallest(self) -> list[Lever]:
        """The levers that together need least, without leaving anything out."""
        return [lever for group in self.groups for lever in group.smallest()]

    def everything(self) -> list[Settings]:
        """As many levers as it takes, then without those that are not needed: one advice, or none where nothing helps."""
        levers = self.smallest()
        further = [lever for group in self.groups for lever in group.levers if lever.order == ADAPTER]
        further += self.shared
        drops = [lever for group in self.groups for lever in group.levers if lever.drops]
        further += sorted(drops, key=lambda lever: lever.gravity)
        for lever in further:
            if self._fitsat_least(levers):
                break
            more = [other for other in levers if not lever.drops or other.model != lever.model] + [lever]
            levers = more if self._possible(at_least(more)) else levers
        if not self._fitsat_least(levers):
            return []
        for lever in sorted(levers, key=lambda lever: (-lever.gravity, lever.order)):
            fewer = [other for other in levers if other is not lever]
            if self._possible(at_least(fewer)) and self._fitsat_least(fewer):
                levers = fewer
        fitted = self.fitted(tuple(levers))
        return [fitted] if fitted else []

    def _fitsat_least(self, levers: Sequence[Lever]) -> bool:
        return self.spare(applied(self.fleet, at_least(levers))) >= 0


@lru_cache(maxsize=128)
def _group(asked: Asked, key: str, fp8: bool) -> _Group:
    """What a model's levers save is the same on every card, so comparing cards looks it up once."""
    return _Group(asked.fleet, key, Room(0, asked.shapes, asked.on_cpu, fp8, asked.context))


class _Group:
    """One model's levers, and what sets of them save on a card that holds this model alone."""

    def __init__(self, fleet: Fleet, key: str, room: Room) -> None:
        self.key, self.room = key, room
        mine = {name: agent for name, agent in fleet.agents.items() if agent.model == key}
        self.fleet = fleet.model_copy(update={"models": {key: fleet.models[key]}, "agents": mine})
        self.levers = model_levers(fleet, key, room)
        self.need = room.need(self.fleet)
        self.savings: dict[int, list[tuple[int, Levers]]] = {}

    def saving(self, count: int, gravity: int) -> list[tuple[int, Levers]]:
        """(bytes saved, levers) of every possible set of so many, the most saving first."""
        if count not in self.savings:
            found = [(self._saved(levers), levers) for levers in combinations(self.levers, count) if self._goes(levers)]
            self.savings[count] = sorted(found, key=lambda entry: -entry[0])
        return [row for row in self.savings[count] if all(lever.gravity <= gravity for lever in row[1])]

    def smallest(self) -> Levers:
        """The set with the most savings among those that take every dial and switch but leave nothing out."""
        kept = [lever for lever in self.levers if not lever.drops and lever.order != ADAPTER]
        forms = [lever for lever in kept if lever.order == FORM]
        others = [lever for lever in kept if lever.order != FORM]
        ways = []
        for form in [(), *((form,) for form in forms)]:
            for left_out in range(len(others) + 1):
                sets = [(*form, *chosen) for chosen in combinations(others, len(others) - left_out)]
                ways += [(self._saved(levers), levers) for levers in sets if self._goes(levers)]
                if ways and left_out >= 2:
                    break
        return max(ways, key=lambda way: way[0], default=(0, ()))[1]

    def _goes(self, levers: Levers) -> bool:
        """Whether no two change the same, nothing is changed on a model left out, and its engine can hold it."""
        if len({lever.place for lever in levers}) < len(levers):
            return False
        if any(lever.drops for lever in levers):
            return len(levers) == 1
        if not any(lever.order in HELD for lever in levers):
            return True
        return can_be(self._changed(levers), self.key, self.room)

    def _changed(self, levers: Levers) -> Fleet:
        return applied(self.fleet, at_least(levers))

    def _saved(self, levers: Levers) -> int:
        if any(lever.drops for lever in levers):
            return self.need
        return self.need - self.room.need(self._changed(levers))


def applied(fleet: Fleet, settings: Iterable[Setting]) -> Fleet:
    for setting in sorted(settings, key=lambda setting: setting.lever.order):
        fleet = setting.apply(fleet)
    return fleet


def at_least(levers: Iterable[Lever]) -> list[Setting]:
    """Every dial at its least: what a set can do at most."""
    return [Setting(lever, lever.least) for lever in levers]


def _dominates(one: Sequence[Setting], other: Sequence[Setting]) -> bool:
    """Whether one set asks less than the other at every place: the same places, each as gentle, dials as high, and one of them more so."""
    theirs = {setting.lever.place: setting for setting in other}
    if {setting.lever.place for setting in one} != set(theirs):
        return False
    pairs = [(setting, theirs[setting.lever.place]) for setting in one]
    if any(
        a.lever.family != b.lever.family or a.lever.harshness > b.lever.harshness or a.value < b.value for a, b in pairs
    ):
        return False
    return any(a.lever.harshness < b.lever.harshness or a.value > b.value for a, b in pairs)
