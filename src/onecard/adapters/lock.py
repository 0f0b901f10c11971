"""One writer at a time per adapter. Whoever waits too long is told who holds it.

The lock is the operating system's (flock through filelock), so a killed holder frees it; the name beside it is only for the message.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from onecard.errors import StoreBusy

LOCK_NAME = ".lock"
HOLDER_NAME = ".holder"


@contextmanager
def locked(folder: Path, doing: str, by: str, timeout_s: float) -> Iterator[None]:
    """Holds the folder's lock; StoreBusy naming the holder when it is not free within `timeout_s` seconds."""
    holder = folder / HOLDER_NAME
    lock = FileLock(str(folder / LOCK_NAME), timeout=timeout_s)
    try:
        lock.acquire(poll_interval=0.01)
    except Timeout:
        raise StoreBusy(
            f"somebody else is changing it: {_holder(holder)}",
            where=str(folder),
            next_step=f"wait for them and try again (waited {timeout_s:g} s)",
        ) from None
    try:
        # Only a courtesy to those who wait: a disk without room for it must not stop the operation that frees some.
        with suppress(OSError):
            holder.write_text(f"{by}, process {os.getpid()} on {socket.gethostname()}, {doing}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def current_user() -> str:
    """The login name, or the number of a user without one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[:200] or "unknown"
    except OSError:
        return "unknown"
