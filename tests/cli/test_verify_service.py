"""The child process: whatever ends us ends it and what it started; how it ended is told. The child is a shell script in its place."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from onecard.cli.verify_service import Stopped, started, stop
from onecard.errors import EngineFailed

SERVES = """#!/bin/sh
{prelude}
sleep 300 >/dev/null &
echo '{{"url": "http://127.0.0.1:{port}", "status": "ok", "fleet": "trial"}}'
wait
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a shell script where the child's Python is looked for."""

    def make(text: str) -> None:
        script = tmp_path / "python"
        script.write_text(text)
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return make


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[int]:
    psutil.wait_procs(processes, timeout=5)
    return [p.pid for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("prelude", ["", "trap '' TERM INT"], ids=["polite", "deaf"])
def test_an_error_inside_ends_the_child_and_its_children(child, prelude: str, monkeypatch: pytest.MonkeyPatch) -> None:
    child(SERVES.format(prelude=prelude, port=1))
    monkeypatch.setattr("onecard.cli.verify_service.PATIENCE_S", 0.3)
    with pytest.raises(RuntimeError), started(Path("fleet.yaml")) as service:
        assert service.url == "http://127.0.0.1:1" and service.health.fleet == "trial"
        processes = family(service.process.pid)
        raise RuntimeError
    assert alive(processes) == []


def test_sigterm_ends_the_child_as_ctrl_c_does(child) -> None:
    child(SERVES.format(prelude="", port=1))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), started(Path("fleet.yaml")) as service:
        processes = family(service.process.pid)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert alive(processes) == [] and signal.getsignal(signal.SIGTERM) is before


def test_a_child_that_does_not_start_is_quoted(child) -> None:
    child("#!/bin/sh\necho 'loading' >&2\necho 'error: no adapter' >&2\necho '  next: onecard train' >&2\nexit 2\n")
    with pytest.raises(EngineFailed, match="error: no adapter; next: onecard train"), started(Path("fleet.yaml")):
        pass
    child("#!/bin/sh\nexit 3\n")
    with pytest.raises(EngineFailed, match="exit code 3 and said nothing"), started(Path("fleet.yaml")):
        pass


def test_how_it_stopped_is_told(child) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child(SERVES.format(prelude="trap 'exit 0' INT", port=port))
        with started(Path("fleet.yaml")) as service:
            ended = stop(service)
    assert (ended.code, ended.port_free) == (0, False) and not ended.clean
    assert ended.left, "the sleeping child of the child still ran"
    assert alive([psutil.Process(pid) for pid in ended.left if psutil.pid_exists(pid)]) == []
    assert Stopped(0, 1.0, True, ()).clean and not Stopped(130, 1.0, True, ()).clean
