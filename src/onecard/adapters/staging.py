"""Where a version is put together before it gets its number: a hidden folder that readers never look at.

Each has a lock that its publisher holds. A lock that is free means that the publisher died, and the next one sweeps the folder away.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from onecard.adapters.lock import LOCK_NAME

PREFIX = ".staging-"
_LOCK_SUFFIX = ".lock"
_ATTEMPTS = 50


@contextmanager
def staging(shelf: Path) -> Iterator[Path]:
    """An empty folder inside `shelf`, made if need be; whatever is left of it is removed at the end.

    When the block fails, folders made on the way to it disappear as well, so that a failed first publish leaves no trace.
    """
    made: list[Path] = []
    folder = shelf / f"{PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
    lock_file = folder.with_name(folder.name + _LOCK_SUFFIX)
    lock = FileLock(str(lock_file))
    try:
        for attempt in range(_ATTEMPTS):
            try:
                _make(shelf, made)
                lock.acquire()
                break
            except FileNotFoundError:
                # A publisher whose first publish fails may take the empty shelf away at this moment.
                if attempt + 1 == _ATTEMPTS:
                    raise
        folder.mkdir()
        yield folder
    except BaseException:
        _discard(folder, lock_file)
        _unmake(made)
        raise
    else:
        _discard(folder, lock_file)
    finally:
        lock.release()


def sweep(shelf: Path) -> None:
    """Removes the staging folders of publishers that died; those of the living stay."""
    if not shelf.is_dir():
        return
    for lock_file in shelf.glob(f"{PREFIX}*{_LOCK_SUFFIX}"):
        _sweep_one(lock_file.with_name(lock_file.name.removesuffix(_LOCK_SUFFIX)), lock_file)
    for folder in shelf.glob(f"{PREFIX}*"):
        lock_file = folder.with_name(folder.name + _LOCK_SUFFIX)
        if not folder.name.endswith(_LOCK_SUFFIX) and not lock_file.exists():
            _sweep_one(folder, lock_file)


def _sweep_one(folder: Path, lock_file: Path) -> None:
    lock = FileLock(str(lock_file), timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return
    try:
        _discard(folder, lock_file)
    finally:
        lock.release()


def _discard(folder: Path, lock_file: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        lock_file.unlink(missing_ok=True)


def _make(folder: Path, made: list[Path]) -> None:
    """Makes a folder and its parents one by one; each that was not there is put into `made` at once, outermost first."""
    for parent in (*reversed(folder.parents), folder):
        if not parent.exists():
            with suppress(FileExistsError):
                parent.mkdir()
                made.append(parent)


def _unmake(made: list[Path]) -> None:
    """Removes folders that were made for nothing; one that somebody uses by now stays."""
    for folder in reversed(made):
        with suppress(OSError):
            if [entry.name for entry in folder.iterdir()] == [LOCK_NAME]:
                (folder / LOCK_NAME).unlink()
            folder.rmdir()
