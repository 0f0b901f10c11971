"""Writing so that a kill, a full disk or a power cut leaves either the old thing or the new one, never half of one.

New content goes to a temporary name, is flushed to the disk, and is renamed. Errors of the machine become MachineErrors here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onecard.errors import AdapterRefused, DiskFull, MachineError

CHUNK_BYTES = 1 << 20
SPARE_BYTES = (
    64 << 10
)  # what an operation writes beside an adapter's own files: manifest, aliases, log line, and whole disk blocks
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def copy_with_digest(source: Path, target: Path) -> str:
    """Copies a regular file to a new name and flushes it; returns the sha256 of the bytes written.

    AdapterRefused if the source is a link or anything else that is not a plain file, even if it became so a moment ago; and if
    somebody wrote to it meanwhile, so that the copy may be half old and half new. Such a copy is taken away again.
    """
    digest, copied_bytes = hashlib.sha256(), 0
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as reader:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise AdapterRefused("not a plain file", where=str(source))
        with target.open("xb") as writer:
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)
                copied_bytes += len(chunk)
            flush(writer.fileno(), writer)
        after = os.fstat(descriptor)
    if (before.st_mtime_ns, before.st_size, before.st_size) != (after.st_mtime_ns, after.st_size, copied_bytes):
        target.unlink(missing_ok=True)
        raise AdapterRefused(
            "it changed while it was copied",
            where=str(source),
            next_step="wait until nobody writes to it, then try again",
        )
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """sha256 hex of a file's content."""
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def read_bytes(file: Path) -> bytes | None:
    """A file's content, or None when there is none; MachineError when the system does not let us read it."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MachineError(f"cannot be read: {error.strerror}", where=str(file)) from None


def write_new(file: Path, content: bytes) -> None:
    """Writes a file that must not exist yet, and flushes it."""
    with file.open("xb") as writer:
        writer.write(content)
        flush(writer.fileno(), writer)


def prepare(file: Path, content: bytes) -> Path:
    """The content under a temporary name beside `file`, ready to be renamed over it; the caller holds the lock.

    The name is always the same, so what a killed process left is overwritten and never piles up.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_new(temporary, content)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def replace(file: Path, content: bytes) -> None:
    """Puts new content in place of a file's old content at once."""
    temporary = prepare(file, content)
    try:
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(file.parent)


def flush(descriptor: int, writer: object = None) -> None:
    """Waits until the file's content is on the disk."""
    if writer is not None:
        writer.flush()  # type: ignore[attr-defined]
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk; systems that cannot open a folder keep names in their own way."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Free space for this user on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def disk_errors(where: Path, needed_bytes: int = SPARE_BYTES) -> Iterator[None]:
    """Turns the system's errors inside the block into DiskFull (with the bytes needed and free) or MachineError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise disk_full(where, needed_bytes, free_bytes(where)) from error
        place = error.filename if isinstance(error.filename, str) else str(where)
        raise MachineError(
            f"the disk refuses: {error.strerror or error}",
            where=place,
            next_step="check the folder and its permissions",
        ) from error


def disk_full(where: Path, needed_bytes: int, free: int) -> DiskFull:
    """The error for a disk that has no room."""
    return DiskFull(
        f"no room: {needed_bytes:,} bytes are needed and {free:,} are free",
        where=str(where),
        next_step="free some space and do it again",
    )
