"""The fleet's service as a child process on a free loopback port, and what is left of it once it has been told to stop.

Whatever ends this process (an error, Ctrl-C, SIGTERM) ends the child first: it has a process group of its own, and the group is ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import psutil

from onecard.errors import EngineFailed
from onecard.wire.health import Health

START_S = 1800.0  # a 70 GB checkpoint from a slow disk
STOP_S = 45.0  # the service gives requests in flight 30 s
PATIENCE_S = 10.0
POLL_S = 0.2


@dataclass(frozen=True)
class Started:
    """A child that serves: where, what it said of itself, and how long it took to get there."""

    url: str
    health: Health
    seconds: float
    process: subprocess.Popen[str]


@dataclass(frozen=True)
class Stopped:
    """How the child ended after one SIGINT. `left` are its processes that still run, `port_free` whether its port can be taken."""

    code: int | None
    seconds: float
    port_free: bool
    left: tuple[int, ...]

    @property
    def clean(self) -> bool:
        return self.code == 0 and self.port_free and not self.left


@contextmanager
def started(fleet_file: Path, on_progress: Callable[[str], None] = lambda step: None) -> Iterator[Started]:
    """The service while the context is open; it has ended when the context is left, whatever happened in it.

    EngineFailed with the child's own words when it does not start.
    """
    command = [sys.executable, "-m", "onecard", "serve", str(fleet_file), "--port", "0", "--json"]
    with tempfile.TemporaryFile() as said, _sigterm_is_ctrl_c():
        began_s = time.monotonic()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it
        )  # fmt: skip
        try:
            on_progress("starting the service as a process of its own")
            told = _first_line(process, said)
            yield Started(told["url"], Health.model_validate(told), time.monotonic() - began_s, process)
        finally:
            _end(process)


def stop(service: Started) -> Stopped:
    """Sends what Ctrl-C sends, and looks at what is left once it is gone."""
    children = _with_children(service.process.pid)
    began_s = time.monotonic()
    service.process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        service.process.wait(STOP_S)
    seconds = time.monotonic() - began_s
    left = tuple(child.pid for child in children if _runs(child))
    return Stopped(service.process.poll(), seconds, _is_free(service.url), left)


def _first_line(process: subprocess.Popen[str], said: Any) -> dict[str, Any]:
    """What `onecard serve --json` prints once it serves; EngineFailed when it ends or stays silent instead."""
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    end_s = time.monotonic() + START_S
    while reader.is_alive() and time.monotonic() < end_s:
        reader.join(POLL_S)  # in pieces, so that Ctrl-C is heard
    try:
        told = json.loads(lines[0]) if lines else {}
        if "url" in told:
            return dict(told)
    except ValueError:
        pass
    if process.poll() is None and not lines:
        raise EngineFailed(f"it did not serve within {START_S:g} s")
    code = process.wait(STOP_S)
    raise EngineFailed(_words(said) or f"it ended with exit code {code} and said nothing", where=f"exit code {code}")


def _words(said: Any) -> str:
    """What the child printed about its end: its last error with the lines below it, in one line."""
    said.seek(0)
    lines = [line.strip() for line in said.read()[-4000:].decode("utf-8", "replace").splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.startswith(("error:", "no:"))]
    return "; ".join(lines[begins[-1] :] if begins else lines[-1:])[:600]


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the child's whole group: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
    with suppress(ProcessLookupError, PermissionError):  # what the child may have left in its group
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """SIGTERM ends this process the way Ctrl-C does, through every `finally`. Only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _with_children(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_free(url: str) -> bool:
    """Whether the port of a URL can be taken again, as the next service would take it."""
    place = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.hostname or "127.0.0.1", place.port or 0))
        except OSError:
            return False
    return True
