"""sha256 of large files, each read once: hashes are remembered by path, size and modification time.

The memory is one small JSON file in the user's cache. It only saves time: if it is corrupt it is ignored, if it cannot be written
the files are hashed again next time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from onecard.weights.places import user_cache

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while hashing."""

_CHUNK_BYTES = 4 << 20
_REMEMBERED_FILES = 2000


def memory_file() -> Path:
    return user_cache() / "onecard" / "weight_hashes.json"


def content_digests(files: Sequence[Path], progress: Progress | None = None) -> list[str]:
    """sha256 hex of each file's content. Nothing is hashed twice unless path, size or modification time changed."""
    known = _remembered()
    sizes = [file.stat().st_size for file in files]
    fresh: dict[str, str] = {}
    digests = []
    for number, file in enumerate(files):
        key = _key(file)
        if key not in known:
            digest = _hash(file, sum(sizes[:number]), sum(sizes), progress)
            # A file that changed while it was read would be remembered under a name that is not its own.
            if _key(file) == key:
                fresh[key] = digest
        else:
            digest = known[key]
        digests.append(digest)
        if progress:
            progress(sum(sizes[: number + 1]), sum(sizes))
    if fresh:
        _remember({**known, **fresh})
    return digests


def remember_digests(digests: Mapping[Path, str]) -> None:
    """Takes in the sha256 of files whose content was hashed on its way here."""
    if digests:
        _remember({**_remembered(), **{_key(file): digest for file, digest in digests.items()}})


def forget(files: Sequence[Path]) -> None:
    """Forgets the hashes of these files: a disk that rots changes neither size nor time, and the next look must be a real one."""
    known = _remembered()
    places = {f"{file.resolve()}|" for file in files}
    left = {key: digest for key, digest in known.items() if not any(key.startswith(place) for place in places)}
    if len(left) < len(known):
        _remember(left)


def _key(file: Path) -> str:
    stat = file.stat()
    return f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def _hash(file: Path, before: int, total: int, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    done = before
    with file.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    return digest.hexdigest()


def _remembered() -> dict[str, str]:
    with suppress(OSError, ValueError, RecursionError):
        memory = json.loads(memory_file().read_bytes())
        if isinstance(memory, dict) and all(
            isinstance(digest, str) and len(digest) == 64 for digest in memory.values()
        ):
            return memory
    return {}


def _remember(memory: dict[str, str]) -> None:
    """Two processes that write at once lose one another's news and nothing else."""
    file = memory_file()
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(list(memory.items())[-_REMEMBERED_FILES:]), indent=0), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
