"""Whom a candidate is compared with: the version in production, when there is another one, and the bare base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onecard.adapters.store import Store, StoredVersion
from onecard.evaluation.gate import Absent
from onecard.fleet.loader import LoadedFleet


@dataclass(frozen=True)
class Rivals:
    """Whom a candidate is compared with. `production_known`: whether what is in production was looked at, even if nothing is."""

    base: bool
    production: StoredVersion | None
    production_digest: str | None
    production_known: bool
    absent: dict[str, Absent]


def rivals_of(loaded: LoadedFleet, stored: StoredVersion, against: Sequence[str]) -> Rivals:
    """Base and production unless `against` names fewer. A version is not compared with itself, nor a first one with nothing."""
    wanted = set(against) or {"production", "base"}
    there = in_production(loaded, stored)
    left_out = Absent("--against left it out", excused=False)
    absent = {} if "base" in wanted else {"base": left_out}
    if there is None:
        absent["production"] = Absent("nothing is in production yet", excused=True)
    elif there.digest == stored.digest:
        absent["production"] = Absent("this version is in production itself", excused=True)
    elif "production" not in wanted:
        absent["production"] = left_out
    return Rivals(
        base="base" in wanted,
        production=None if "production" in absent else there,
        production_digest=there.digest if there else None,
        production_known=absent.get("production") != left_out,
        absent=absent,
    )


def in_production(loaded: LoadedFleet, stored: StoredVersion) -> StoredVersion | None:
    """The version that callers get now."""
    store = Store(loaded.store_url)
    there = store.aliases(stored.agent, stored.name).production
    return store.resolve(stored.agent, f"{stored.name}@{there}") if there else None
