"""Findings about the places that are written to: whether they can be, how much room there is, what was left behind."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator

from onecard.catalog.units import GIB, MIB, format_bytes
from onecard.cli.doctor_records import Facts, Finding, Place
from onecard.cli.main import VERBS

LOW_BYTES, FULL_BYTES = GIB, 256 * MIB


def writable(facts: Facts) -> Iterator[Finding]:
    """Every place that nothing can be written to, told once for places that share the cause."""
    faulty: dict[tuple[str, str], list[Place]] = {}
    for place in facts.places:
        if place.fault is not None:
            faulty.setdefault((place.set_by, place.fault), []).append(place)
    for (set_by, fault), places in faulty.items():
        mend, rights = _mended(places[0])
        named = " and ".join(f"{place.what} ({place.path})" for place in places)
        yield Finding(
            "problem", "places", f"nothing can be written where {set_by} puts {named}: {fault}",
            "what is downloaded or made would be lost at its end", mend, rights,
        )  # fmt: skip
    if not faulty:
        yield Finding("ok", "places", f"{len(facts.places)} places can be written")


def _mended(place: Place) -> tuple[str, bool]:
    """(command, whether it needs rights) by the cause."""
    path = shlex.quote(str(place.path))
    variable, _, file = place.set_by.partition(" in ")
    if variable.isupper():  # a variable put it there
        return (f"${{EDITOR:-vi}} {shlex.quote(file)}   # {variable}" if file else f"unset {variable}"), False
    if place.fault == os.strerror(errno.EROFS):
        return f'sudo mount -o remount,rw "$(stat -c %m {path})"', True
    if place.fault in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)):
        return free_some(LOW_BYTES), False
    if place.fault and place.fault.endswith("is not a folder"):
        taken = shlex.quote(place.fault.removesuffix(" is not a folder"))
        return f"mv {taken} {taken}.old", False
    return f'sudo mkdir -p {path} && sudo chown -R "$USER" {path}', True


def room(facts: Facts) -> Iterator[Finding]:
    """Volumes that are nearly full, each told once with the places on it."""
    volumes: dict[str, list[Place]] = {}
    for place in facts.places:
        if place.fault is None:
            volumes.setdefault(place.volume, []).append(place)
    low = False
    for places in volumes.values():
        free = min(place.free_bytes for place in places)
        if free >= LOW_BYTES:
            continue
        low = True
        yield Finding(
            "problem" if free < FULL_BYTES else "warning", "disk", f"{format_bytes(free)} free for {_places(places)}",
            "what is being written when it ends is thrown away", free_some(LOW_BYTES),
        )  # fmt: skip
    if volumes and not low:
        for places in volumes.values():
            yield Finding("ok", "disk", f"{format_bytes(places[0].free_bytes)} free for {_places(places)}")


def _places(places: list[Place]) -> str:
    """The places of a volume; of those that were put there, by what."""
    by_default = [place.what for place in places if place.set_by == "default"]
    moved = [f"{place.what} in {place.path} ({place.set_by})" for place in places if place.set_by != "default"]
    return ", ".join([*moved, *by_default])


def free_some(wanted_bytes: int) -> str:
    """The command that removes the models used least recently until so much is free; it asks before it does."""
    return f"onecard weights prune --until {-(-wanted_bytes // GIB)}GiB" if "weights" in VERBS else "hf cache ls"


def environment_file(facts: Facts) -> Iterator[Finding]:
    """A `.env` that cannot be read stops every verb that moves models."""
    said = facts.environment_file
    if said is not None and said.fault is not None:
        yield Finding(
            "problem", "places", said.fault, "where models live and how the hub is asked is not known",
            f"${{EDITOR:-vi}} {shlex.quote(str(said.file))}",
        )  # fmt: skip


def unset(facts: Facts, *names: str) -> str:
    """The command that takes variables away: from the shell, or from the file they stand in."""
    said = facts.environment_file
    if said is not None and all(name in said.names for name in names):
        return f"${{EDITOR:-vi}} {shlex.quote(str(said.file))}   # remove {', '.join(names)}"
    return f"unset {' '.join(names)}"


def leftovers(facts: Facts) -> Iterator[Finding]:
    """What killed processes left behind; a lock that others wait for is a problem, the rest takes room or misleads."""
    if not facts.leftovers:
        yield Finding("ok", "leftovers", "nothing left behind")
    for blocks in (True, False):
        found = [left for left in facts.leftovers if left.blocks is blocks]
        if not found:
            continue
        size = sum(left.bytes for left in found)
        takes = f", {format_bytes(size)}" if size else ""
        kinds = "; ".join(dict.fromkeys(left.what for left in found))
        number = "a file" if len(found) == 1 else f"{len(found)} files"
        yield Finding(
            "problem" if blocks else "warning", "leftovers", f"{number} of a killed process{takes}: {kinds}",
            "whoever needs it waits for ever" if blocks else "it takes room or misleads, and nobody comes back for it",
            "rm " + " ".join(shlex.quote(str(left.path)) for left in found),
        )  # fmt: skip
