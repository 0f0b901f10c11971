"""Training runs as a person names them to `onecard report`: a metrics.jsonl, a run's folder, or an adapter's address in a store.

What a run told of its steps and what its adapter's manifest records are put together by the steps' own figures, never by a name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onecard.adapters.address import parse_address
from onecard.adapters.store import Store
from onecard.benchmark.report_data import Training
from onecard.benchmark.report_training import FILE, StepFigures, read_metrics, same_run
from onecard.errors import InputError, OnecardError

if TYPE_CHECKING:
    from onecard.adapters.store import StoredVersion

RUNS = "-runs"  # what a local store's folder of runs has behind the store's name


def is_training(named: str) -> bool:
    """Whether this names a training run and not a result file."""
    return named.endswith(".jsonl") or _is_run(Path(named)) or _is_address(named)


def named_trainings(named: Sequence[str], store: str | None) -> tuple[Training, ...]:
    """The runs, in the order they were named. InputError for an address without a store, and what reading them raises."""
    return tuple(_stored(name, store) if _is_address(name) else _run(Path(name), store) for name in named)


def _is_run(path: Path) -> bool:
    return (path / FILE).is_file()


def _is_address(named: str) -> bool:
    """agent/name@version; a file or folder of that name comes first."""
    return "@" in named and not Path(named).exists()


def _stored(named: str, store: str | None) -> Training:
    """An adapter of the store, with its steps' figures where its run's folder is still there."""
    address = parse_address(named)
    if store is None:
        raise InputError("the address of an adapter needs its store", where=named, next_step="add --store FOLDER")
    shelf = Store(store)
    stored = shelf.resolve(address.agent, f"{address.name}@{address.reference}")
    for folder in sorted(shelf.runs_folder.glob(f"{stored.agent}-{stored.name}-{stored.version}*")):
        if (
            stored.manifest.training
            and _is_run(folder)
            and same_run(points := read_metrics(folder / FILE), stored.manifest.run.curve)
        ):
            return _training(stored, points)
    return _training(stored, ())


def _run(path: Path, store: str | None) -> Training:
    """A run by its file or folder, with the manifest of the adapter that came of it, where that is found."""
    file = path / FILE if path.is_dir() else path
    points = read_metrics(file)
    beside = _store_beside(file)
    if store is not None or beside is not None:
        shelf = Store(store or str(beside))
        trained = (stored for stored in _versions(shelf) if stored.manifest.training)
        found = next((stored for stored in trained if same_run(points, stored.manifest.run.curve)), None)
        if found is not None:
            return _training(found, points)
    return Training(label=file.parent.name or file.name, points=points)


def _store_beside(file: Path) -> Path | None:
    """The store whose runs lie where this file lies."""
    runs = file.resolve().parent.parent
    place = runs.with_name(runs.name.removesuffix(RUNS))
    return place if runs.name.endswith(RUNS) and place.is_dir() else None


def _versions(shelf: Store) -> list[StoredVersion]:
    """Every version that can be read; a broken adapter is no reason to say nothing of another."""
    found: list[StoredVersion] = []
    for listing in shelf.list():
        try:
            found += shelf.versions(listing.agent, listing.name)
        except OnecardError:
            continue
    return found


def _training(stored: StoredVersion, points: Sequence[StepFigures]) -> Training:
    label = f"{stored.agent} {stored.name}@{stored.version}"
    return Training(label=label, record=stored.manifest.training, points=tuple(points))
