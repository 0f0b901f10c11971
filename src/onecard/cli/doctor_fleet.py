"""A fleet file on this machine: which of its models are on this disk, and its plan against the memory that is free now.

The hub is never asked. Sizes of what is missing are the catalog's; a model that neither disk nor catalog knows has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onecard.catalog.cards import Card
from onecard.catalog.machine import SeenCard, cpu_card, match_card
from onecard.catalog.models import find_model
from onecard.catalog.units import GB, GIB
from onecard.cli.doctor_records import FleetFacts, Machine, MemoryNeed, NeededModel, Refused
from onecard.cli.use_targets import copy_wanted
from onecard.errors import CatalogError, MissingPart, OnecardError
from onecard.fleet.schema import ModelSpec
from onecard.weights.inventory import resolve, weight_files
from onecard.weights.places import hub_cache

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet
    from onecard.planner.room import Room


def read_fleet(loaded: LoadedFleet, machine: Machine, already_served: bool) -> FleetFacts:
    """The fleet's needs. While it is served already (`already_served`), its memory is taken and there is nothing to hold against."""
    fleet = loaded.fleet
    here = card_here(machine)
    memory, fault = None, None
    if not already_served:
        try:
            memory = memory_need(loaded, here, machine)
        except OnecardError as error:
            fault = str(error)
    local = {key: spec for key, spec in fleet.models.items() if spec.engine != "remote"}
    return FleetFacts(
        file=_short(loaded.file),
        name=fleet.name,
        digest=loaded.digest,
        models=tuple(needed_model(key, spec, loaded.folder) for key, spec in local.items()),
        callers=sum(spec.concurrency for spec in fleet.models.values()),
        reserve_bytes=round(fleet.reserve_gib * GIB),
        memory=memory,
        memory_fault=fault,
        other_card=_other_card(loaded, here),
        refused=refused(loaded),
    )


def _short(file: Path) -> Path:
    """As it is typed from here, when it lies below."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def card_here(machine: Machine) -> Card | None:
    """The card of this machine as the planner knows it: the CPU where no driver answers, None for a card that nobody described."""
    if machine.gpu is None:
        return cpu_card(machine.ram_bytes, 1.0)  # memory alone is judged here, not speed
    try:
        return match_card(SeenCard(machine.gpu.name, machine.gpu.total_bytes))
    except CatalogError:
        return None


def needed_model(key: str, spec: ModelSpec, folder: Path) -> NeededModel:
    """One model: where it is, or what is missing of it; of one in a form that only a copy holds, that copy."""
    spec = spec.model_copy(update={"id": copy_wanted(spec) or spec.id})
    try:
        place = resolve(spec.id, folder)
        sizes = [file.stat().st_size for file in weight_files(place)]
    except MissingPart as error:
        gated, size = _of_the_catalog(spec.id)
        present = _present_bytes(spec.id)
        missing = None if size is None else max(0, size - present)
        return NeededModel(key, spec.id, None, error.problem, gated=gated, missing_bytes=missing)
    except (OnecardError, OSError) as error:
        fault = error.problem if isinstance(error, OnecardError) else f"cannot be read: {error.strerror}"
        return NeededModel(key, spec.id, None, fault, from_hub=False)
    return NeededModel(key, spec.id, place, largest_file_bytes=max(sizes, default=0), weights_bytes=sum(sizes))


def memory_need(loaded: LoadedFleet, here: Card | None, machine: Machine) -> MemoryNeed:
    """The plan's memory against what is free now, with what to lower where that is not enough. OnecardError: it cannot be planned."""
    from onecard.cli.plan import calibration_of, card_of, shapes_of
    from onecard.planner.calibrated import calibrated_context
    from onecard.planner.room import Room
    from onecard.planner.speed import is_cpu

    card = here or card_of(loaded.fleet)
    try:
        calibration = calibration_of(card, None)
    except OnecardError:  # a broken calibration is a finding of its own
        calibration = None
    context = None if calibration is None else calibrated_context(calibration)
    available = card.total_bytes - round(loaded.fleet.reserve_gib * GIB)
    room = Room(available, shapes_of(loaded, offline=True), is_cpu(card), card.fp8, context)
    need = room.need(loaded.fleet)
    free = machine.gpu.free_bytes if machine.gpu is not None else machine.ram_available_bytes
    advice = changes(loaded, room, need, free) if need > free else ()
    return MemoryNeed(card.name, need, free, need <= available, advice)


def changes(loaded: LoadedFleet, room: Room, need: int, free: int) -> tuple[str, ...]:
    """What to lower in the fleet file so that it fits what is free: context or callers, else what the plan advises."""
    from dataclasses import replace

    from onecard.planner.advice import advise, after_out_of_memory

    ledger, fleet = room.ledger(loaded.fleet), loaded.fleet

    def grows(key: str) -> int:
        return sum(line.bytes for line in ledger.of(key).lines if line.kind in ("cache", "working"))

    for key in sorted((key for key in fleet.models if fleet.models[key].engine != "remote"), key=grows, reverse=True):
        lowered = after_out_of_memory(fleet, key, replace(room, available_bytes=need), need - free)
        if lowered is not None:
            return tuple(change.text for change in lowered.changes)
    ways = advise(fleet, replace(room, available_bytes=free))
    return tuple(change.text for change in ways[0].changes) if ways else ()


def refused(loaded: LoadedFleet) -> Refused | None:
    """What `onecard serve` refuses of the fleet before it loads anything: an agent it cannot serve, an adapter that is not there."""
    from onecard.serving.start import check_servable, find_adapters

    try:
        check_servable(loaded)
        find_adapters(loaded)
    except OnecardError as error:
        command = error.next_step or ""
        return Refused(error.problem, error.where or "", command if command.startswith("onecard ") else "")
    return None


def _of_the_catalog(model_id: str) -> tuple[bool, int | None]:
    """(gated, bytes of its weights) as far as the catalog knows."""
    try:
        model = find_model(model_id)
    except CatalogError:
        return False, None
    return bool(model.access.gated), model.disk.bytes_of_weights or round(model.disk.size_gb * GB)


def _present_bytes(model_id: str) -> int:
    """What of a model is in the cache already, whole files and broken ones; a resumed download needs that much less."""
    size = 0
    for blob in (hub_cache() / f"models--{model_id.replace('/', '--')}" / "blobs").glob("*"):
        try:
            size += blob.stat().st_size
        except OSError:
            continue
    return size


def _other_card(loaded: LoadedFleet, here: Card | None) -> str | None:
    """The card the fleet is written for, when it is named and another one."""
    named = loaded.fleet.card
    if not isinstance(named, str) or named.strip().lower() == "auto" or here is None:
        return None
    from onecard.catalog.cards import find_card

    card = find_card(named)
    return None if card.id == here.id else card.name
