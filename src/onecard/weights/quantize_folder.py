"""The folder a checkpoint is made in: hidden beside its final name, locked by its maker, renamed into place when it is whole.

A kill at any point leaves nothing under the final name. What it leaves under the hidden one is found by the next run and removed,
unless somebody is still at work in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

from filelock import FileLock, Timeout

from onecard.errors import DiskFull, InputError, MachineError, StoreBusy

LOCK_NAME = "lock"
WEIGHTS_NAME = "weights"
# Files of the source that belong to the checkpoint as they are; the weights, the config and a readme about other weights do not.
COPIED = (
    *(
        "tokenizer*",
        "vocab*",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template*",
        "*.tiktoken",
    ),
    *("generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*"),
)


def partial_of(output: Path) -> Path:
    """Where the checkpoint `output` is made."""
    return output.with_name(f".{output.name}.partial")


@contextmanager
def making(output: Path) -> Iterator[Path]:
    """The folder to work in, empty, with this process's lock in it. Removed when the block is left.

    InputError when `output` exists, StoreBusy when another process is making it now, DiskFull or MachineError from the disk.
    """
    partial = partial_of(output)
    with disk_errors(output):
        partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(partial / LOCK_NAME), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreBusy("another process is making it now", where=str(output), next_step="wait for it") from None
    try:
        if not (partial / LOCK_NAME).exists():  # its last holder removed the folder between our two steps
            raise StoreBusy("another process made it just now", where=str(output), next_step="try again")
        demand_new(output)
        with disk_errors(output):
            _empty(partial)
            yield partial
    finally:
        with suppress(OSError):
            shutil.rmtree(partial)
        lock.release()


def demand_new(output: Path) -> None:
    """InputError when something has the final name already."""
    if output.exists() or output.is_symlink():
        raise InputError("exists already", where=str(output), next_step="name another --output, or remove it first")


def keep_files(source: Path, target: Path) -> None:
    """Copies what belongs to the checkpoint beside its weights: the tokenizer byte for byte, licences."""
    for file in kept_files(source):
        shutil.copyfile(file, target / file.name)


def kept_files(source: Path) -> list[Path]:
    """Files of the source that go along as they are, by name."""
    return sorted({file for pattern in COPIED for file in source.glob(pattern) if file.is_file()})


def put_in_place(weights: Path, output: Path) -> None:
    """Flushes every file and renames the folder to its final name at once. InputError when somebody made `output` meanwhile."""
    for file in sorted(weights.rglob("*")):
        if file.is_file():
            _flush(file)
    _flush(weights)
    try:
        if output.exists():  # a rename would replace an empty folder without a word
            raise FileExistsError
        weights.rename(output)
    except FileExistsError:
        raise InputError("somebody made it meanwhile", where=str(output), next_step="name another --output") from None
    _flush(output.parent)


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files of a folder by pattern."""
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file())


def free_bytes(folder: Path) -> int:
    """Free space for this user on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """The system's errors inside the block become DiskFull or MachineError."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT, EFBIG):
            raise DiskFull(
                f"no room: {free_bytes(where):,} bytes are free",
                where=str(where),
                next_step="free some space and do it again",
            ) from error
        raise MachineError(
            f"the disk refuses: {error.strerror or error}",
            where=error.filename if isinstance(error.filename, str) else str(where),
            next_step="check the folder and its permissions",
        ) from error


def _empty(partial: Path) -> None:
    """Removes what a killed run left."""
    for left in partial.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        elif left.name != LOCK_NAME:
            left.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
