"""Takes a model off this disk so that a kill at any moment leaves either the whole model or none that could be taken for one.

Its folder is renamed to a name that nothing reads as a model, and then deleted. What a kill leaves of it is deleted by the next removal.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from onecard.errors import InputError, MachineError
from onecard.weights.places import hub_cache
from onecard.weights.storage import BlobKey, Held
from onecard.weights.storage_scan import SHARED_STORE, bytes_on_disk

_GOING = ".onecard-removing--"
_SHARED_BLOB = re.compile(r"[0-9a-f]{64}")


def remove(model: Held) -> None:
    """Removes a model of the hub cache. One that is gone already is fine. MachineError when the disk refuses; then it is untouched,
    or no longer a model and deleted by the next removal."""
    if model.fixed or model.place != "hub":
        raise InputError(f"onecard does not remove {model.id}: {model.fixed}", where=str(model.folder))
    going = model.folder.with_name(f"{_GOING}{model.folder.name}-{secrets.token_hex(4)}")
    try:
        model.folder.rename(going)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(model.folder, error) from None
    _delete(going)


def leftovers(cache: Path | None = None) -> list[Path]:
    """What interrupted removals left behind in the hub cache."""
    place = cache or hub_cache()
    with suppress(OSError):
        return sorted(entry for entry in place.iterdir() if entry.name.startswith(_GOING))
    return []


def leftover_bytes(found: list[Path]) -> int:
    """What leftovers take on disk, without the blobs that they share with models."""
    blobs: dict[BlobKey, int] = {}
    for folder in found:
        for top, _, names in os.walk(folder):
            for file in (Path(top, name) for name in names):
                with suppress(OSError):
                    if not file.is_symlink():
                        status = file.stat()
                        blobs[status.st_dev, status.st_ino] = bytes_on_disk(status)
    return sum(blobs.values())


def sweep(found: list[Path]) -> None:
    """Deletes leftovers. MachineError when the disk refuses."""
    for folder in found:
        _delete(folder)


def _delete(going: Path) -> None:
    """Shared blobs first: their links in `going` say which they are, and a kill must not lose that."""
    try:
        for blob in _shared_blobs(going):
            _drop_if_unused(blob, going.parent)
        shutil.rmtree(going)
    except FileNotFoundError:
        return  # another process sweeps the same leftover
    except OSError as error:
        raise _refused(going, error) from None


def _shared_blobs(repository: Path) -> list[Path]:
    """Blobs of the cache's shared store that this repository links to."""
    return sorted(set(_targets(repository, Path(os.path.realpath(repository.parent / SHARED_STORE)))))


def _targets(repository: Path, store: Path) -> Iterator[Path]:
    """Where the links among a repository's blobs lead, if that is in the store; they are relative, and hold after a rename."""
    with suppress(OSError):
        for link in (repository / "blobs").iterdir():
            target = Path(os.path.realpath(link))
            if link.is_symlink() and target.is_relative_to(store) and _SHARED_BLOB.fullmatch(target.name):
                yield target


def _drop_if_unused(blob: Path, cache: Path) -> None:
    """Deletes a shared blob when no repository links to it, under the lock with which the hub's library makes such links."""
    from filelock import FileLock

    store = Path(os.path.realpath(cache / SHARED_STORE))
    with FileLock(f"{blob}.lock", mode=0o666):
        repositories = [entry for entry in cache.iterdir() if not entry.name.startswith(_GOING) and "--" in entry.name]
        if any(blob in _targets(repository, store) for repository in repositories):
            return
        blob.unlink(missing_ok=True)
        blob.with_name(f"{blob.name}.refs").unlink(missing_ok=True)


def _refused(place: Path, error: OSError) -> MachineError:
    return MachineError(
        f"the disk refuses to remove it: {error.strerror or error}",
        where=error.filename if isinstance(error.filename, str) else str(place),
        next_step="check who owns the folder, then run the same command again",
    )
