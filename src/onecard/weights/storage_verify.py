"""Hashes a model's files again and compares: with what the hub said when they came, or with what onecard saw first.

The hub cache names a large file's blob by its sha256 and a small one's by its git hash; `hf download --local-dir` writes the same
beside the files. Other folders are remembered at first sight. Every byte is read each time: a remembered hash knows no rotten disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onecard.weights.hashes import forget
from onecard.weights.places import user_cache
from onecard.weights.storage import Held
from onecard.weights.storage_scan import missing_files, snapshots

State = Literal["good", "damaged", "missing", "changed", "new", "unknown", "unreadable"]
BAD: tuple[State, ...] = ("damaged", "missing", "changed", "unreadable")
_SHA256, _GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_CHUNK_BYTES = 4 << 20
_OWN = (".cache", ".git", ".huggingface")


@dataclass(frozen=True)
class Checked:
    """One file of a model. `by` is what it was compared with: hub, first sight, or nothing."""

    name: str
    state: State
    by: Literal["hub", "first sight", "nothing"]
    bytes: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Verified:
    """A model's files, each compared."""

    id: str
    files: tuple[Checked, ...]

    @property
    def bad(self) -> tuple[Checked, ...]:
        return tuple(file for file in self.files if file.state in BAD)

    @property
    def good(self) -> bool:
        return not self.bad


@dataclass(frozen=True)
class Expected:
    """A file and the hash it must have; None where nobody said one."""

    name: str
    file: Path
    hash: str | None


def files_of(model: Held) -> list[Expected]:
    """The files to compare: each blob of every revision once, or each file of a folder."""
    if model.place != "hub":
        return list(_in_folder(model.folder))
    found: dict[Path, Expected] = {}
    revisions = snapshots(model.folder)
    for snapshot in revisions:
        for top, _, names in os.walk(snapshot):
            for name in sorted(names):
                file = Path(top, name)
                blob = Path(os.path.normpath(file.parent / file.readlink())) if file.is_symlink() else file
                in_blobs = os.path.realpath(blob.parent) == os.path.realpath(model.folder / "blobs")
                shown = file.relative_to(snapshot).as_posix() + (
                    "" if snapshot is revisions[0] else f"@{snapshot.name[:12]}"
                )
                found.setdefault(blob, Expected(shown, file, blob.name if in_blobs and _is_hash(blob.name) else None))
    return list(found.values())


def verify(model: Held, on_bytes: Callable[[int], None] = lambda count: None, *, accept: bool = False) -> Verified:
    """Compares every file; `on_bytes` is called with the bytes of each piece read.

    `accept` takes what a folder of one's own holds now as right from here on. What the hub said cannot be overruled.
    """
    checked, seen = [], _remembered(model)
    now: dict[str, str] = {}
    for expected in files_of(model):
        result, digest = _check(expected, seen, on_bytes, accept)
        checked.append(result)
        if digest and result.by != "hub":
            now[expected.name] = digest
    looked_at = {file.name for file in checked}
    gone = [] if accept or model.place == "hub" else [name for name in seen if name not in looked_at]
    checked += [Checked(name, "missing", "first sight") for name in gone]
    lacking = [name for name in _lacking(model) if name not in {*looked_at, *gone}]
    checked += [Checked(name, "missing", "nothing", detail="the model cannot be loaded without it") for name in lacking]
    if now:
        _remember(model, now if accept else {**now, **seen})
    # Whoever mends it, or identifies it, must not trust a hash that was remembered before the damage.
    names = {file.name for file in checked if file.state in BAD}
    forget([expected.file for expected in files_of(model) if expected.name in names])
    return Verified(model.id, tuple(checked))


def _check(
    expected: Expected, seen: dict[str, str], on_bytes: Callable[[int], None], accept: bool
) -> tuple[Checked, str | None]:
    """What became of one file, and its sha256 where it is to be remembered."""
    by: Literal["hub", "first sight", "nothing"] = "hub" if expected.hash else "first sight"
    try:
        status = expected.file.stat()
        if not stat.S_ISREG(status.st_mode):
            return Checked(expected.name, "unreadable", by, detail="not a plain file"), None
        size = status.st_size
        git = bool(expected.hash and _GIT.fullmatch(expected.hash))
        digest = _digest(expected.file, size, git, on_bytes)
    except FileNotFoundError:
        return Checked(expected.name, "missing", by), None
    except OSError as error:
        return Checked(expected.name, "unreadable", by, detail=error.strerror or str(error)), None
    right = expected.hash or (None if accept else seen.get(expected.name))
    if right is None:
        return Checked(expected.name, "new", "nothing", size), digest
    if digest == right:
        return Checked(expected.name, "good", by, size), digest
    detail = f"{'git' if git else 'sha256'} hash {digest[:12]}, not {right[:12]}; {size:,} bytes"
    return Checked(expected.name, "damaged" if expected.hash else "changed", by, size, detail), digest


def _lacking(model: Held) -> tuple[str, ...]:
    """What a model cannot be loaded without, and that has no name here: a shard that the index tells of, say."""
    folder = next(iter(snapshots(model.folder)), None) if model.place == "hub" else model.folder
    return missing_files(folder) if folder else ("every file",)


def _digest(file: Path, size: int, git: bool, on_bytes: Callable[[int], None]) -> str:
    """Hex hash of a file's content: git's own (sha1 over a header and the content) or sha256. Its access time stays as it was."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if git else hashlib.sha256()
    before = file.stat()
    with file.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    with suppress(OSError):  # checking a model is no use of it
        if (after := file.stat()).st_mtime_ns == before.st_mtime_ns:
            os.utime(file, ns=(before.st_atime_ns, after.st_mtime_ns))
    return digest.hexdigest()


def _in_folder(folder: Path) -> Iterator[Expected]:
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _OWN)
        for name in sorted(names):
            file = Path(top, name)
            relative = file.relative_to(folder).as_posix()
            yield Expected(relative, file, _said_by_hub(folder, relative, file))


def _said_by_hub(folder: Path, name: str, file: Path) -> str | None:
    """The hash that `hf download --local-dir` noted, unless the file was written after that."""
    note = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    with suppress(OSError, ValueError, IndexError):
        _, etag, written = note.read_text(encoding="utf-8").split("\n")[:3]
        if _is_hash(etag.strip()) and file.stat().st_mtime <= float(written) + 1:
            return etag.strip()
    return None


def _is_hash(text: str) -> bool:
    return bool(_SHA256.fullmatch(text) or _GIT.fullmatch(text))


def _memory_file(model: Held) -> Path:
    place = hashlib.sha256(os.fsencode(os.path.realpath(model.folder))).hexdigest()[:32]
    return user_cache() / "onecard" / "first_sight" / f"{place}.json"


def _remembered(model: Held) -> dict[str, str]:
    """sha256 by file name, as first seen."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        said = json.loads(_memory_file(model).read_bytes())["files"]
        if isinstance(said, dict):
            return {str(name): digest for name, digest in said.items() if isinstance(digest, str) and _is_hash(digest)}
    return {}


def _remember(model: Held, digests: dict[str, str]) -> None:
    """A cache that cannot be written makes the next look the first one."""
    file = _memory_file(model)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"folder": str(model.folder), "files": digests}, indent=0), encoding="utf-8")
        temporary.replace(file)
