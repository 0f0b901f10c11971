"""What `onecard use --list` knows: each role and each model of the fleet, whether it lies on the disk and fits, and which is active."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onecard.cli.use_fit import Fitted, Ground, fitted, repository_of
from onecard.cli.use_targets import ROLES, Place, Target, models_of_role, role_target, target_of
from onecard.errors import MissingPart, OnecardError
from onecard.weights.active import ActiveModel, files_gone, read_active

OnDisk = Literal["yes", "part", "no"]


@dataclass(frozen=True)
class Row:
    """One role or model of the fleet. `problem` says why nothing is known of its fit; `copy` what would be loaded."""

    name: str
    id: str
    form: str
    context: int
    largest: int
    fits: bool
    on_disk: OnDisk
    active: bool
    copy: str | None = None
    override: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Listing:
    """The rows, the record and what is to be said about it."""

    rows: tuple[Row, ...]
    active: ActiveModel | None
    remarks: tuple[str, ...]


def listing(place: Place, ground: Ground) -> Listing:
    """Every model of the fleet and every role of the catalog on this card."""
    remarks: list[str] = []
    try:
        active = read_active(place.folder)
    except OnecardError as error:
        active = None
        remarks.append(f"{error.where}: {error.problem}")
    targets = [*_targets(place)]
    rows = tuple(_row(name, target, place, ground, active) for name, target in targets)
    if active is not None:
        remarks += active_remarks(active, place, ground)
    return Listing(rows, active, tuple(remarks))


def active_remarks(active: ActiveModel, place: Place, ground: Ground) -> Iterator[str]:
    """Where the record and the world have parted: files, card, the fleet's own entry, local overrides."""
    if gone := files_gone(active):
        yield gone
    elif active.path is None and on_disk(active.repository, place.folder)[0] != "yes":
        yield f"{active.repository} is not on this disk: `onecard fetch {active.repository}`"
    if not active.plan.fits:
        yield "it was forced: by its plan it does not fit"
    if active.card != ground.card.id:
        yield f"it was activated for {active.card}, and this is {ground.card.id}: `onecard use {active.asked}` again"
    try:
        now = target_of(active.asked, place)
    except OnecardError as error:
        yield f"'{active.asked}', which it was activated as, is no longer known: {error.problem}"
        return
    if now.id != active.id:
        yield f"'{active.asked}' is {now.id} now, and {active.id} is active: `onecard use {active.asked}`"
    for name, is_now, was in (
        ("quantization", now.spec.quantization, active.quantization),
        ("context", now.spec.context, active.context),
        ("concurrency", now.spec.concurrency, active.concurrency),
    ):
        if now.id == active.id and name in now.settled and is_now != was:
            yield f"{name} was {was} when it was activated and is {is_now} in {now.settled[name]}: `onecard use {active.asked}`"


def on_disk(repository: str | None, folder: Path) -> tuple[OnDisk, str | None, Path | None]:
    """Whether what would be loaded is here, what is wrong otherwise, and where it is."""
    from onecard.weights.inventory import resolve

    if repository is None:
        return "no", None, None
    try:
        return "yes", None, resolve(repository, folder)
    except MissingPart as error:
        return ("part" if error.problem.startswith("only a part") else "no"), error.problem, None
    except OnecardError as error:
        return "no", error.problem, None


def record_of(listed: Listing, ground: Ground) -> dict[str, Any]:
    """The listing as plain data."""
    return {
        "card": ground.card.id,
        "models": [
            {
                "name": row.name, "id": row.id, "loads": row.copy, "form": row.form, "context": row.context,
                "largest_context": row.largest, "fits": row.fits, "on_disk": row.on_disk, "active": row.active,
                "problem": row.problem,
            }
            for row in listed.rows
        ],
        "active": listed.active.model_dump(mode="json", by_alias=True) if listed.active else None,
        "remarks": list(listed.remarks),
    }  # fmt: skip


def _targets(place: Place) -> Iterator[tuple[str, Target]]:
    """The fleet's own models first, then the roles."""
    for key, spec in place.fleet.fleet.models.items() if place.fleet else ():
        if spec.engine != "remote":
            yield key, target_of(key, place)
    for role in ROLES:
        if models_of_role(role):
            yield role, role_target(role, place)


def _row(name: str, target: Target, place: Place, ground: Ground, active: ActiveModel | None) -> Row:
    try:
        made = fitted(target, place, ground)
        loads = repository_of(made, place)
    except OnecardError as error:
        here = on_disk(target.id, place.folder)[0]
        mine = active is not None and active.id == target.id
        return Row(name, target.id, target.spec.quantization, 0, 0, False, here, mine, problem=error.problem)
    return Row(
        name=name,
        id=target.id,
        form=made.form,
        context=made.spec.context,
        largest=made.largest,
        fits=made.fits,
        on_disk=on_disk(loads, place.folder)[0],
        active=_is_active(made, loads, active),
        copy=loads if loads != target.id else None,
        override=target.override is not None,
    )


def _is_active(made: Fitted, loads: str | None, active: ActiveModel | None) -> bool:
    return active is not None and active.id == made.target.id and active.repository == loads
