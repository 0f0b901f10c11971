"""Which fleets are on this machine: those onecard was run with, and those named by hand. What they need is not pruned.

Neither is what `onecard use` activated beside one of them, or in the folder a person stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet
    from onecard.weights.storage_scan import FleetNeeds


@dataclass(frozen=True)
class FleetsHere:
    """What the fleets of this machine need, and the remembered files that are not there any more."""

    needs: tuple[FleetNeeds, ...]
    gone: tuple[Path, ...]


def open_fleet(file: Path) -> LoadedFleet:
    """The fleet in a file, the `.env` beside it followed, and remembered as one of this machine. FleetError and InputError as they say."""
    from onecard.fleet.loader import load_fleet
    from onecard.weights.environment import follow

    loaded = load_fleet(file)
    follow(loaded.folder)
    remember_fleet(loaded)
    return loaded


def remember_fleet(loaded: LoadedFleet) -> None:
    """Remembers that onecard was run with a fleet on this machine, so that its models are kept."""
    from onecard.weights.storage_memory import note_fleet

    note_fleet(loaded.file, _models(loaded))


def fleets_here(named: Sequence[Path]) -> FleetsHere:
    """Remembered fleets as their files say now, and those named by hand.

    A remembered file that cannot be read now keeps what it named when it last could; FleetError for a file named by hand.
    """
    from onecard.errors import OnecardError
    from onecard.fleet.loader import load_fleet
    from onecard.weights.storage_memory import fleets
    from onecard.weights.storage_scan import FleetNeeds

    needs = {loaded.file: FleetNeeds(loaded.file, _models(loaded)) for loaded in map(load_fleet, named)}
    gone = []
    for remembered in fleets():
        if remembered.file in needs:
            continue
        if not remembered.file.exists():
            gone.append(remembered.file)
            continue
        try:
            models = _models(load_fleet(remembered.file))
        except OnecardError:
            models = remembered.models
        needs[remembered.file] = FleetNeeds(remembered.file, models)
    folders = dict.fromkeys([Path.cwd(), *(file.parent for file in needs)])
    active = [need for folder in folders if (need := _active(folder)) is not None]
    return FleetsHere((*needs.values(), *active), tuple(gone))


def _active(folder: Path) -> FleetNeeds | None:
    """What `onecard use` activated in a folder; None for nothing, or for a record that cannot be read."""
    from onecard.errors import OnecardError
    from onecard.weights.active import active_file, read_active
    from onecard.weights.storage_scan import FleetNeeds

    try:
        record = read_active(folder)
    except OnecardError:
        return None
    if record is None:
        return None
    return FleetNeeds(active_file(folder), (record.repository, *([record.path] if record.path else [])))


def _models(loaded: LoadedFleet) -> tuple[str, ...]:
    """Ids of the models that need weights on this disk, and of the copies in the form they are held in."""
    from onecard.cli.use_targets import copy_wanted

    here = [spec for spec in loaded.fleet.models.values() if spec.engine != "remote"]
    copies = [copy for spec in here if (copy := copy_wanted(spec)) is not None]
    return tuple(dict.fromkeys([*(spec.id for spec in here), *copies]))
