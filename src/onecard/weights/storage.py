"""What models take on this disk, and the pure decision which of them go: records and arithmetic, no disk and no clock.

A file that several names share is counted once, and counts as freed only when its last name goes. Nothing that a fleet needs, that a
process uses or that cannot be fetched again is ever chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Place = Literal["hub", "embedded", "folder"]
Sign = Literal["loaded", "read", "written"]
BlobKey = tuple[int, int]
"""What is one file for the disk, whatever its names: (device, inode)."""


@dataclass(frozen=True)
class Held:
    """A model on this disk.

    `folder` is the repository's folder in the hub cache, or the folder with config.json; `blobs` bytes on disk by file. `used_at`
    (seconds since 1970) is the latest sign of use: `loaded` by onecard, or weights `read` or `written` as the disk tells it.
    """

    id: str
    place: Place
    folder: Path
    blobs: Mapping[BlobKey, int] = field(default_factory=dict)
    revision: str | None = None
    revisions: int = 0
    quantization: str = "unknown"
    dtype: str = "unknown"
    missing: tuple[str, ...] = ()
    used_at: float = 0.0
    used_sign: Sign = "written"
    needed_by: tuple[str, ...] = ()
    fixed: str | None = None
    """Why onecard does not remove it, whoever asks; None for what it can fetch again."""

    @property
    def bytes(self) -> int:
        return sum(self.blobs.values())

    @property
    def whole(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class Storage:
    """Every model found. `outside` are files of theirs that something else holds as well: removing models does not free them."""

    models: tuple[Held, ...]
    outside: frozenset[BlobKey] = frozenset()

    @property
    def bytes(self) -> int:
        """On disk in all, shared files once."""
        return sum({key: size for model in self.models for key, size in model.blobs.items()}.values())

    def freed_bytes(self, removed: Iterable[Held]) -> int:
        """What the disk gets back when these go: files that nobody else holds."""
        going = {model.id: model for model in removed}
        kept = {key for model in self.models if model.id not in going for key in model.blobs}
        blobs = {key: size for model in going.values() for key, size in model.blobs.items()}
        return sum(size for key, size in blobs.items() if key not in kept and key not in self.outside)


@dataclass(frozen=True)
class Pruning:
    """What goes, the least recently used first, and why the others stay. `short_bytes` are still missing after it."""

    remove: tuple[Held, ...]
    kept: Mapping[str, str]
    frees_bytes: int
    short_bytes: int


def why_kept(model: Held, in_use: Mapping[str, str], *, force: bool = False) -> str | None:
    """Why a model must not go, as words for a person; None when it may. `in_use`: who uses a model, by its id.

    `force` overrules the fleets that need it, and neither a process that uses it nor what cannot be fetched again.
    """
    if model.fixed:
        return model.fixed
    if user := in_use.get(model.id):
        return f"in use: {user}"
    if model.needed_by and not force:
        return f"needed by {', '.join(model.needed_by)}"
    return None


def choose(storage: Storage, need_bytes: int, in_use: Mapping[str, str], *, force: bool = False) -> Pruning:
    """The least recently used models that together free `need_bytes`; all that may go when even those do not.

    Whoever frees nothing, because every file of it is held by a model that stays, stays too.
    """
    kept = {model.id: why for model in storage.models if (why := why_kept(model, in_use, force=force))}
    chosen: list[Held] = []
    for model in sorted(storage.models, key=lambda model: (model.used_at, model.id)):
        if storage.freed_bytes(chosen) >= need_bytes:
            break
        if model.id not in kept:
            chosen.append(model)
    chosen = _that_count(storage, chosen)
    freed = storage.freed_bytes(chosen)
    return Pruning(tuple(chosen), kept, freed, max(0, need_bytes - freed))


def _that_count(storage: Storage, chosen: Sequence[Held]) -> list[Held]:
    """Without those whose removal frees nothing, not even together with the others."""
    left = list(chosen)
    for model in chosen:
        others = [other for other in left if other is not model]
        if storage.freed_bytes(others) == storage.freed_bytes(left):
            left = others
    return left
