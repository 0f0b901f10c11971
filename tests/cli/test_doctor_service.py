"""Ports that are free, mute, or answer nonsense. Services that answer are in test_doctor.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from threading import Thread

import pytest

from onecard.cli import doctor_service
from onecard.cli.doctor_service import holder_of, read_port


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        yield opened


def port_of(opened: socket.socket) -> int:
    number: int = opened.getsockname()[1]
    return number


def test_a_free_port(listening: socket.socket) -> None:
    number = port_of(listening)
    listening.close()
    port = read_port(number)
    assert (port.taken, port.holder, port.service) == (False, None, None)


def test_a_mute_holder_is_no_service(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_service, "TIMEOUT_S", 0.2)
    port = read_port(port_of(listening))
    assert port.taken and port.service is None
    assert port.holder is not None and port.holder.pid == os.getpid()


@pytest.mark.parametrize(
    "answer",
    [b"220 mail ready\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{bad", b""],
)  # fmt: skip
def test_what_answers_nonsense_is_no_service(answer: bytes, listening: socket.socket) -> None:
    def answering() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                client.recv(4096)
                client.sendall(answer)

    Thread(target=answering, daemon=True).start()
    port = read_port(port_of(listening))
    assert port.taken and port.service is None


def test_the_holder_is_named_by_its_command_line() -> None:
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    started = [sys.executable, "-c", code, "my-server"]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        holder = holder_of(int(process.stdout.readline()))
        process.stdin.close()
    assert holder is not None and holder.pid == process.pid and "python" in holder.name
