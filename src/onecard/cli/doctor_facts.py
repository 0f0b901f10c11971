"""Reads what `onecard doctor` judges: each room's facts of this machine, put into one record.

Nothing heavy is imported and no other machine is asked; only the driver's tool, loopback and, where it is asked for, a cold start run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onecard.cli.doctor_cold_start import Opened, measure, read_kept
from onecard.cli.doctor_fleet import card_here, read_fleet
from onecard.cli.doctor_machine import read_machine
from onecard.cli.doctor_packages import read_packages
from onecard.cli.doctor_places import read_leftovers, read_places
from onecard.cli.doctor_records import Active, Calibrated, ColdStart, EnvironmentFile, Facts, FleetFacts, Machine
from onecard.cli.doctor_service import read_port
from onecard.errors import OnecardError
from onecard.weights.inventory import resolve

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet

EMBEDDED = "embedded:mini"


def read_facts(loaded: LoadedFleet | None, port: int, *, cold_start: bool = False) -> Facts:
    """This machine, and the fleet on it where one is named. `cold_start`: also measure one, which takes as long as a start."""
    folder = loaded.folder if loaded is not None else Path.cwd()
    environment_file = follow_environment(folder)  # before anything reads a variable
    machine = read_machine()
    seen = read_port(port)
    store = None if loaded is None or "://" in loaded.store_url else Path(loaded.store_url)
    already = loaded is not None and seen.service is not None and seen.service.fleet == loaded.fleet.name
    fleet = None if loaded is None else read_fleet(loaded, machine, already)
    return Facts(
        machine=machine,
        packages=read_packages(),
        places=read_places(store, environment_file),
        leftovers=read_leftovers(store),
        port=seen,
        token=has_token(),
        environment_file=environment_file,
        fleet=fleet,
        active=read_active_model(folder),
        calibrated=read_calibrated(machine),
        cold_start=cold_start_of(loaded, fleet) if cold_start else kept_cold_start(fleet),
    )


def follow_environment(folder: Path) -> EnvironmentFile | None:
    """What a `.env` in this folder sets, taken into this process as every verb that moves models does; None without one."""
    try:
        from onecard.weights.environment import FILE, follow
    except ModuleNotFoundError:
        return None
    try:
        taken = follow(folder)
    except OnecardError as error:
        return EnvironmentFile(folder / FILE, fault=str(error))
    return None if taken is None else EnvironmentFile(taken.file, taken.names)


def has_token() -> bool:
    """Whether the hub would be told who asks."""
    from onecard.weights.hub_access import access

    try:
        return access().token is not None
    except OnecardError:
        return False


def read_active_model(folder: Path) -> Active | None:
    """What is active in this folder; None when nothing is, or where this onecard has no `use`."""
    try:
        from onecard.weights.active import active_file, files_gone, read_active
    except ModuleNotFoundError:
        return None
    file = active_file(folder)
    try:
        record = read_active(folder)
    except OnecardError as error:
        return Active(file, fault=error.problem)
    if record is None:
        return None
    names = frozenset(name for name in (record.id, record.repository, record.path) if name)
    fetched = record.path is not None or _on_this_disk(record.repository, folder)
    return Active(file, record.id, record.repository, names, record.asked, fetched, files_gone(record))


def _on_this_disk(model_id: str, folder: Path) -> bool:
    try:
        resolve(model_id, folder)
    except OnecardError:
        return False
    return True


def read_calibrated(machine: Machine) -> Calibrated | None:
    """What this machine's card was calibrated with; None when it never was, or nobody knows the card."""
    from onecard.evidence.calibration import calibration_file, find_calibration

    card = card_here(machine)
    if card is None:
        return None
    file = calibration_file(card.id)
    try:
        found = find_calibration(card.id)
    except OnecardError as error:
        return Calibrated(file, fault=error.problem)
    if found is None:
        return None
    return Calibrated(file, found.at, found.card.driver, found.versions.get("torch"))


def kept_cold_start(fleet: FleetFacts | None) -> ColdStart | None:
    """The last measurement, when it was of a model that is asked about now."""
    kept = read_kept()
    if kept is None or fleet is None or kept.model in {model.id for model in fleet.models}:
        return kept
    return None


def cold_start_of(loaded: LoadedFleet | None, fleet: FleetFacts | None) -> ColdStart:
    """Measures a start of the fleet's first model that is on this disk, or of the embedded one without a fleet."""
    here = next((model for model in fleet.models if model.folder is not None), None) if fleet is not None else None
    if loaded is None:
        return measure(Opened(EMBEDDED, str(resolve(EMBEDDED, Path.cwd())), "nf4"))
    if here is None or here.folder is None:
        return ColdStart("", loaded.fleet.name, (), "no model of the fleet is on this disk")
    spec = loaded.fleet.models[here.key]
    return measure(
        Opened(here.id, str(here.folder), spec.quantization, spec.double_quantization, min(spec.context, 128))
    )
