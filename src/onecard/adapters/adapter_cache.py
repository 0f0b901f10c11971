"""Local copies of versions that lie in an object store: engines read files, and each version is fetched once per machine.

A copy is put together in a hidden folder, checked against the manifest and renamed; of two processes that do so at once either wins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onecard.adapters import durable
from onecard.adapters.manifest import Manifest
from onecard.adapters.staging import staging, sweep
from onecard.adapters.verification import MANIFEST, differences


def default_cache() -> Path:
    """$XDG_CACHE_HOME/onecard, or ~/.cache/onecard."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "onecard"


class AdapterCache:
    """Folders named by digest, and by the manifest, since two versions may have the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place_of(self, digest: str, manifest_sha256: str) -> Path:
        return self.folder / f"{digest}-{manifest_sha256[:12]}"

    def whole(self, place: Path, manifest: Manifest, manifest_sha256: str) -> bool:
        """True when a copy is there and every byte of it is as published; one that is not is taken away."""
        if not place.is_dir():
            return False
        with durable.disk_errors(place):
            file = place / MANIFEST
            if file.is_file() and durable.file_digest(file) == manifest_sha256 and not differences(place, manifest):
                return True
            with (
                staging(self.folder) as aside,
                suppress(FileNotFoundError),
            ):  # somebody else took it away at this moment
                place.rename(aside / "spoilt")
        return False

    @contextmanager
    def filling(self, needed_bytes: int) -> Iterator[Path]:
        """An empty folder for a copy of that size; DiskFull when there is no room. What is left in it goes away."""
        needed = needed_bytes + durable.SPARE_BYTES
        with durable.disk_errors(self.folder, needed):
            sweep(self.folder)
            if (free := durable.free_bytes(self.folder)) < needed:
                raise durable.disk_full(self.folder, needed, free)
            with staging(self.folder) as place:
                (place / "version").mkdir()
                yield place / "version"

    def keep(self, copy: Path, place: Path) -> Path:
        """Puts a whole copy in its place, read-only; one that somebody else put there meanwhile stays."""
        for file in copy.iterdir():
            file.chmod(0o444)
        durable.flush_folder(copy)
        try:
            copy.rename(place)
        except OSError:
            if not place.is_dir():
                raise
        return place
