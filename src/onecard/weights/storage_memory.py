"""What onecard remembers of models on this machine: when it last loaded each, and which fleets it was run with.

One small file a model and a fleet in the user's cache, each replaced whole, so that writers at the same time lose nothing of one
another's. It is a memory and no more: what cannot be written or read is left out, and never stops a load.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from onecard.weights.places import user_cache

try:
    import fcntl
except ImportError:  # Windows: who uses a model is then told by open files alone
    fcntl = None  # type: ignore[assignment]

_TRIES = 50
_holding: dict[Path, BinaryIO] = {}


@dataclass(frozen=True)
class Use:
    """A folder that onecard loaded a model from, and when, in seconds since 1970."""

    folder: Path
    at: float
    file: Path


@dataclass(frozen=True)
class RememberedFleet:
    """A fleet file onecard was run with, the model ids it named then, and when."""

    file: Path
    models: tuple[str, ...]
    at: float


def uses_folder() -> Path:
    return user_cache() / "onecard" / "model_uses"


def fleets_folder() -> Path:
    return user_cache() / "onecard" / "fleets"


def note_use(folder: Path) -> None:
    """Remembers that a model was loaded from `folder` now, and holds it as in use until this process ends. Never raises."""
    with suppress(OSError, ValueError):
        place = os.path.realpath(folder)
        file = _file(uses_folder(), place)
        _write(file, {"folder": place, "at": time.time()})
        _hold(file.with_suffix(".held"))


def uses() -> list[Use]:
    """Every remembered load; unreadable ones are left out."""
    return [
        Use(Path(said["folder"]), float(said["at"]), file)
        for file, said in _read_all(uses_folder())
        if isinstance(said.get("folder"), str) and isinstance(said.get("at"), int | float)
    ]


def holders(folder: Path) -> list[int]:
    """Ids of the processes that loaded a model from `folder`, or from below it, and still run, the latest first.

    0 stands for one that cannot be named. Empty where locks cannot tell.
    """
    pids: list[int] = []
    for use in uses():
        if fcntl is None or not use.folder.is_relative_to(folder):
            continue
        with suppress(OSError), use.file.with_suffix(".held").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                noted = [int(line) for line in reversed(lock.read().split()) if line.isdigit()]
                pids += [pid for pid in noted if _runs(pid)] or [0]
    return list(dict.fromkeys(pids))


def note_fleet(file: Path, models: Sequence[str]) -> None:
    """Remembers that onecard was run with this fleet file, and the ids of the models it names. Never raises."""
    with suppress(OSError, ValueError):
        place = os.path.realpath(file)
        _write(_file(fleets_folder(), place), {"file": place, "models": list(models), "at": time.time()})


def fleets() -> list[RememberedFleet]:
    """Every remembered fleet, by its path; the files may be gone."""
    found = [
        RememberedFleet(Path(said["file"]), tuple(map(str, said["models"])), float(said["at"]))
        for _, said in _read_all(fleets_folder())
        if isinstance(said.get("file"), str)
        and isinstance(said.get("models"), list)
        and isinstance(said.get("at"), int | float)
    ]
    return sorted(found, key=lambda fleet: fleet.file)


def forget_fleet(file: Path) -> None:
    """Forgets a fleet, whose file is gone for good."""
    with suppress(OSError):
        _file(fleets_folder(), str(file)).unlink(missing_ok=True)


def _file(memory: Path, place: str) -> Path:
    return memory / f"{sha256(os.fsencode(place)).hexdigest()[:32]}.json"


def _write(file: Path, value: dict[str, Any]) -> None:
    """Puts the whole value in place at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_all(memory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(memory.glob("*.json")):
        with suppress(OSError, ValueError, RecursionError):
            value = json.loads(file.read_bytes())
            if isinstance(value, dict):
                yield file, value


def _hold(file: Path) -> None:
    """A shared lock that the system takes back when this process ends, however it ends. The file names who holds it."""
    if fcntl is None or file in _holding:
        return
    lock = file.open("ab")
    try:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)  # nobody holds it: the names in it are of processes that ended
        _share(lock)
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()
    except BaseException:
        lock.close()
        raise
    _holding[file] = lock


def _share(lock: BinaryIO) -> None:
    """Takes the shared lock; `holders` keeps others out for a moment while it looks."""
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        time.sleep(0.01)
    raise BlockingIOError("the lock is held for too long")


def _runs(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))
