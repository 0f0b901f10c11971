"""The folders of training runs: whose run each is, which can be gone on with, and what stays of one that is done.

A folder is locked by the process whose run it is, from the moment it can be seen: the lock is the operating system's, so a killed run
frees it. What was published keeps its metrics and its curve under a name with the version; everything else of it goes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from onecard.adapters.durable import disk_errors, write_new
from onecard.errors import StoreBusy

if TYPE_CHECKING:
    from onecard.adapters.store import StoredVersion

RECORD, LOCK, ADAPTER, METRICS = "run.json", ".lock", "adapter", "metrics.jsonl"
CURVE = "loss.png"
KEPT = (METRICS, CURVE)
_ATTEMPTS = 20
_STALE_S = 3600  # a folder that a process died in before it could be seen
_FINISHED = re.compile(r".+-v\d{4,9}(-\d+)?")


@dataclass(frozen=True)
class RunOf:
    """Whose run: runs of all stores at URLs lie in one folder, so the store is part of it."""

    store: str
    agent: str
    name: str

    def __str__(self) -> str:
        return f"{self.agent}/{self.name}"


@dataclass
class OpenRun:
    """A run's folder, held by this process. `resumed_from` is the step of the checkpoint it goes on from, if it does."""

    folder: Path
    started_at: str
    resumed_from: int | None
    lock: FileLock
    finished: bool = False

    def checkpoint_step(self) -> int:
        return checkpoint_step(self.folder)


@contextmanager
def run_folder(runs: Path, of: RunOf, resume: bool) -> Iterator[OpenRun]:
    """The newest unfinished run of this adapter when `resume` asks for it and there is one, else a new folder.

    StoreBusy when the newest is under way in another process. Of a run that fails only what it can go on from stays behind.
    """
    with disk_errors(runs, 0):
        _sweep(runs, of)
        run = (_going_on(runs, of) if resume else None) or _new(runs, of)
    try:
        yield run
    except BaseException:
        if not run.finished:
            _leave(run)
        raise
    finally:
        run.lock.release()
        with suppress(OSError):
            runs.rmdir()


def checkpoint_step(folder: Path) -> int:
    """The step of a run's newest whole checkpoint; 0 without one. By its name: reading it takes torch."""
    numbers = [place.name.removeprefix("checkpoint-") for place in folder.glob("checkpoint-*")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def unfinished(runs: Path, of: RunOf) -> list[tuple[Path, str]]:
    """(folder, when it began) of the runs of this adapter that ended before they were published, or are under way; newest first."""
    found = [(folder, record["started_at"]) for folder, record in _records(runs, of) if not _finished(folder)]
    return sorted(found, key=lambda entry: entry[1], reverse=True)


def finish(run: OpenRun, of: RunOf, version: str) -> Path:
    """Names the folder after the version that came of it, and takes away all but its metrics; returns the folder."""
    stem = run.folder.with_name(f"{of.agent}-{of.name}-{version}")
    place, number = stem, 1
    while place.exists():  # of a store that is gone, or of another one at a URL
        number += 1
        place = stem.with_name(f"{stem.name}-{number}")
    with disk_errors(run.folder, 0):
        run.folder.rename(place)
    run.folder, run.finished = place, True
    _clear(place)
    return place


def published_from(run: OpenRun, versions: list[StoredVersion]) -> StoredVersion | None:
    """The version that this run became, when it was killed between publishing and tidying up."""
    from onecard.benchmark.report_training import read_metrics, same_run

    file = run.folder / METRICS
    points = read_metrics(file) if file.is_file() else ()
    trained = (version for version in reversed(versions) if version.manifest.training)
    return next((version for version in trained if same_run(points, version.manifest.run.curve)), None)


def _new(runs: Path, of: RunOf) -> OpenRun:
    """A fresh folder, locked before it can be seen under its name."""
    partial, lock = _locked_partial(runs)
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    record = {"store": of.store, "agent": of.agent, "name": of.name, "started_at": started_at, "process": os.getpid()}
    write_new(partial / RECORD, json.dumps(record, indent=2).encode())
    stamp = re.sub(r"[^0-9T]", "", started_at[:19])
    folder = runs / f"{of.agent}-{of.name}-{stamp}-{partial.name.split('.')[1][-6:]}"
    partial.rename(folder)
    return OpenRun(folder, started_at, None, lock)


def _locked_partial(runs: Path) -> tuple[Path, FileLock]:
    for attempt in range(_ATTEMPTS):
        runs.mkdir(parents=True, exist_ok=True)
        try:
            partial = Path(tempfile.mkdtemp(prefix=".run-", suffix=".partial", dir=runs))
        except FileNotFoundError:  # another run that ended took the empty folder away at this moment
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        break
    partial.chmod(0o755)
    lock = FileLock(str(partial / LOCK), timeout=0)
    lock.acquire()
    return partial, lock


def _going_on(runs: Path, of: RunOf) -> OpenRun | None:
    """The newest run with a checkpoint, locked. What has none is taken away: there is nothing in it to go on from."""
    for folder, started_at in unfinished(runs, of):
        lock = _taken(folder)
        if lock is None:
            raise StoreBusy(
                f"the run of {of} that began at {moment(started_at)} is under way in another process",
                where=str(folder),
                next_step="wait for it; without --resume a run of its own begins beside it",
            )
        step = checkpoint_step(folder)
        if step:
            shutil.rmtree(folder / ADAPTER, ignore_errors=True)
            _remove_partials(folder)
            return OpenRun(folder, started_at, step, lock)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
    return None


def _leave(run: OpenRun) -> None:
    """What a run that ended early leaves: its checkpoints and metrics, or nothing."""
    if run.checkpoint_step():
        shutil.rmtree(run.folder / ADAPTER, ignore_errors=True)
        _remove_partials(run.folder)
    else:
        shutil.rmtree(run.folder, ignore_errors=True)


def _sweep(runs: Path, of: RunOf) -> None:
    """What killed processes left of this adapter's finished runs, and of folders that never got a name."""
    for folder, _ in _records(runs, of):
        if _finished(folder) and (lock := _taken(folder)) is not None:
            _clear(folder)
            lock.release()
    for partial in runs.glob(".run-*.partial"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > _STALE_S:
                shutil.rmtree(partial, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Takes away all but what is kept; record and lock go last, so that a kill leaves a folder that is swept later."""
    for place in sorted(folder.iterdir(), key=lambda entry: (entry.name == LOCK, entry.name == RECORD)):
        if place.name in KEPT:
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def _remove_partials(folder: Path) -> None:
    for place in (*folder.glob(".*.partial"), folder / "rehearsal"):
        shutil.rmtree(place, ignore_errors=True)


def _taken(folder: Path) -> FileLock | None:
    """The folder's lock, or None when another process holds it."""
    lock = FileLock(str(folder / LOCK), timeout=0)
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError):  # or its owner renamed it at this moment
        return None
    return lock


def _records(runs: Path, of: RunOf) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders with a run's record of this adapter; what cannot be read is somebody else's."""
    for file in sorted(runs.glob(f"*/{RECORD}")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            mine = (record["store"], record["agent"], record["name"]) == (of.store, of.agent, of.name)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if mine and isinstance(record.get("started_at"), str):
            yield file.parent, record


def _finished(folder: Path) -> bool:
    return _FINISHED.fullmatch(folder.name) is not None


def moment(iso: str) -> str:
    """2026-11-21T19:50:12.123+00:00 as 2026-11-21 19:50 UTC."""
    return f"{iso[:10]} {iso[11:16]} UTC"
