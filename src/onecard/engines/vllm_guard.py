"""Runs as a process of its own between onecard and vLLM: whichever of the two dies, however it dies, nothing of vLLM is left.

vLLM starts an engine and workers which outlive a killed server. So it is started in a group of its own under this guard, which adopts
its orphans (Linux), and whose standard input is onecard's life line: the end of it means that onecard is gone. Only the standard
library is imported here.

    python vllm_guard.py FOLDER GRACE_S COMMAND...

A byte `t` on standard input stops vLLM gently, for GRACE_S seconds at most. Standard output says `started PID`, then `ended STATUS`.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SHARED = Path("/dev/shm")
POLL_S = 0.25
SET_DEATH_SIGNAL, SET_SUBREAPER = 1, 36  # prctl(2)


def main(arguments: list[str]) -> int:
    """Starts the command and waits; 0 when it has ended with everything it started."""
    folder, grace_s, command = Path(arguments[0]), float(arguments[1]), arguments[2:]
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _control(SET_SUBREAPER, 1)
    with (folder / "vllm.log").open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_guard,
        )
    _tell(f"started {child.pid}")
    shared: set[Path] = set()
    abandoned = False
    try:
        abandoned = _watch(child, grace_s, shared)
    finally:
        _end_group(child)
        for segment in shared:
            segment.unlink(missing_ok=True)
        _tell(f"ended {child.returncode}")
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _watch(child: subprocess.Popen[bytes], grace_s: float, shared: set[Path]) -> bool:
    """Waits until the child has ended or has to; True when onecard is gone."""
    asked_s: float | None = None
    listening = [sys.stdin.fileno()]
    while child.poll() is None:
        _note_shared(child.pid, shared)
        if asked_s is not None and time.monotonic() - asked_s > grace_s:
            return False
        if select.select(listening, [], [], POLL_S)[0]:
            if not os.read(listening[0], 64):
                return True
            if asked_s is None:
                asked_s = time.monotonic()
                child.send_signal(signal.SIGTERM)
    return False


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the group, and every orphan that came to this process, until there is none."""
    for _ in range(200):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            child.wait(10)  # before it is collected below among the orphans, where its status would be lost
        for orphan in _children():
            with suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(0.02)


def _children() -> list[int]:
    """The processes whose parent this one is."""
    own = str(os.getpid())
    return [pid for pid, parent in _parents().items() if parent == own]


def _parents() -> dict[int, str]:
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            found[int(place.name)] = (place / "stat").read_text().rpartition(")")[2].split()[1]
    return found


def _note_shared(group: int, shared: set[Path]) -> None:
    """Remembers the segments of shared memory (/dev/shm/psm_*) that a process of the group has mapped: only those are its own."""
    new = set(SHARED.glob("psm_*")) - shared if SHARED.is_dir() else set()
    if new:
        mapped = "".join(_maps(_members(group)))
        shared |= {segment for segment in new if str(segment) in mapped}


def _members(group: int) -> list[int]:
    members = []
    for pid in _parents():
        with suppress(OSError):
            if os.getpgid(pid) == group:
                members.append(pid)
    return members


def _maps(pids: Iterable[int]) -> Iterable[str]:
    for pid in pids:
        with suppress(OSError):
            yield Path(f"/proc/{pid}/maps").read_text(errors="replace")


def _control(option: int, value: int) -> None:
    """prctl, where there is one."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    """In the child, before the command: a killed guard takes the server with it; its engine is killed by onecard then."""
    _control(SET_DEATH_SIGNAL, signal.SIGKILL)


def _tell(line: str) -> None:
    """onecard may be gone; then nobody needs to hear it."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
