"""Where onecard and its libraries write: who put each place there, what is free, whether it can be written, what was left behind.

Whether a place can be written is tried with a file without a name, for rights alone do not tell of a full or read-only volume.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path

from onecard.catalog.units import KIB
from onecard.cli.doctor_records import EnvironmentFile, Leftover, Place
from onecard.weights.places import hub_cache, user_cache

NETWORK = ("nfs", "cifs", "smb", "sshfs", "9p", "lustre", "ceph", "gluster", "beegfs", "fuse.")
ABANDONED_S = 24 * 3600  # a download that nobody wrote to for so long
STUCK_S = 3600  # a build that took so long is none
_HOLDER = re.compile(r", process (\d+) on (\S+), ")


def read_places(store: Path | None, environment_file: EnvironmentFile | None = None) -> tuple[Place, ...]:
    """Every place that is written to; `store` is the fleet's, where one was named."""
    from_file = {} if environment_file is None else dict.fromkeys(environment_file.names, str(environment_file.file))

    def set_by(*names: str) -> str:
        name = next((name for name in names if os.environ.get(name)), "")
        return f"{name} in {from_file[name]}" if name in from_file else name or "default"

    hub = set_by("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "ONECARD_MODELS", "HF_HOME", "XDG_CACHE_HOME")
    data = (
        os.environ.get("HF_DATASETS_CACHE")
        or Path(os.environ.get("HF_HOME") or user_cache() / "huggingface") / "datasets"
    )
    places = [
        place("models", hub_cache(), hub),
        place("data sets", Path(data).expanduser(), set_by("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME")),
        place("onecard's cache", user_cache() / "onecard", set_by("XDG_CACHE_HOME")),
        place("temporary files", Path(tempfile.gettempdir()), set_by("TMPDIR", "TEMP", "TMP")),
    ]
    return tuple(places if store is None else [*places, place("adapter store", store, "the fleet file")])


def place(what: str, path: Path, set_by: str) -> Place:
    """A place as it is now; one that does not exist yet is judged by the folder it would be made in."""
    there = existing(path)
    fault = write_fault(there)
    try:
        usage = shutil.disk_usage(there)
        free, total, volume = usage.free, usage.total, str(there.stat().st_dev)
    except OSError as error:
        free, total, volume, fault = 0, 0, str(there), fault or (error.strerror or str(error))
    return Place(what, path, set_by, free, total, volume, fault, on_network(there))


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    for part in (path.absolute(), *path.absolute().parents):
        try:
            if part.exists():
                return part
        except OSError:
            continue
    return Path("/")


def write_fault(folder: Path) -> str | None:
    """Why no file can be written into this folder; None when one can."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4 * KIB)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def on_network(path: Path) -> bool:
    """Whether the volume is another machine's."""
    import psutil

    real, best, kind = os.path.realpath(path), "", ""
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return False
    for mount in mounts:
        inside = real == mount.mountpoint or real.startswith(mount.mountpoint.rstrip("/") + "/")
        if inside and len(mount.mountpoint) >= len(best):
            best, kind = mount.mountpoint, mount.fstype
    return kind.startswith(NETWORK)


def read_leftovers(store: Path | None) -> tuple[Leftover, ...]:
    """What killed processes left behind in the caches and the store."""
    now = time.time()
    return (*_broken_downloads(hub_cache(), now), *_stuck_builds(now), *(_holders(store) if store else ()))


def _broken_downloads(cache: Path, now: float) -> list[Leftover]:
    return [
        Leftover("a download that was broken off", file, size)
        for file in sorted(cache.glob("models--*/blobs/*.incomplete"))
        for size in [_size_if_older(file, now - ABANDONED_S)]
        if size is not None
    ]


def _stuck_builds(now: float) -> list[Leftover]:
    """torch's extension builder waits for this file to vanish, for ever when its maker was killed."""
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or user_cache() / "torch_extensions").expanduser()
    return [
        Leftover("the lock of a kernel build that ended", file, blocks=True)
        for file in sorted([*folder.glob("*/lock"), *folder.glob("*/*/lock")])
        if _size_if_older(file, now - STUCK_S) is not None
    ]


def _holders(store: Path) -> list[Leftover]:
    """Notes of who holds an adapter whose process is gone; the lock itself is the system's and is free again."""
    import psutil

    found = []
    for file in sorted(store.glob("agents/*/adapters/*/.holder")):
        try:
            said = _HOLDER.search(file.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if said and said[2] == socket.gethostname() and not psutil.pid_exists(int(said[1])):
            found.append(Leftover(f"a note that process {said[1]}, which is gone, holds the adapter", file))
    return found


def _size_if_older(file: Path, than: float) -> int | None:
    try:
        seen = file.stat()
    except OSError:
        return None
    return None if seen.st_mtime >= than else seen.st_size
