"""Starting and stopping: in a thread, and as a process that gets signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from onecard.serving.listening import listen
from onecard.serving.running import run_in_background

PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("fakes", sys.argv[1])
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)
from onecard.serving.listening import listen, url_of
from onecard.serving.running import run
engine = fakes.FakeEngine()
listening = listen("127.0.0.1", 0)
print(url_of(listening), flush=True)
whole = run(fakes.service_of(engine), listening, grace_s=float(sys.argv[2]))
print("closed" if engine.closed else "open", "in flight", engine.running, flush=True)
sys.exit(0 if whole else 130)
"""


@contextmanager
def process(grace_s: float = 20) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service in its own process, ready to answer, and its URL."""
    fakes = str(Path(__file__).with_name("conftest.py"))
    command = [sys.executable, "-c", PROGRAM, fakes, str(grace_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def slow_request(url: str, words: int) -> tuple[threading.Thread, list[httpx.Response]]:
    """A streamed request of 50 ms a word, in flight when this returns."""
    answers: list[httpx.Response] = []
    body = {"model": "base", "stream": True, "max_tokens": 64 - words}
    body |= {"messages": [{"role": "user", "content": " ".join(["slowly"] * words)}]}

    def ask() -> None:
        with suppress(httpx.HTTPError):  # the connection may be cut off
            answers.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: httpx.get(f"{url}/health").json()["in_flight"] == 1)
    return thread, answers


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_in_flight_finish_and_is_a_success(number: signal.Signals) -> None:
    with process() as (running, url):
        thread, answers = slow_request(url, 12)
        running.send_signal(number)
        thread.join()
        assert answers[0].text.count("slowly") == 12 and answers[0].text.endswith("data: [DONE]\n\n")
        out, errors = running.communicate(timeout=15)
    assert (running.returncode, out.strip(), errors) == (0, "closed in flight 0", "")


def test_after_the_grace_time_what_is_left_gets_one_clear_error() -> None:
    with process(grace_s=0.3) as (running, url):
        thread, answers = slow_request(url, 30)
        running.send_signal(signal.SIGTERM)
        thread.join()
        out, _ = running.communicate(timeout=20)
    assert running.returncode == 0 and out.startswith("closed")
    last = [line for line in answers[0].text.splitlines() if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_failed"


def test_a_second_ctrl_c_does_not_wait() -> None:
    with process() as (running, url):
        thread, _ = slow_request(url, 30)
        running.send_signal(signal.SIGINT)
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=10) == 130
        thread.join()


def test_in_a_thread_it_answers_while_the_context_is_open(service, engine) -> None:
    with run_in_background(service, listen("127.0.0.1", 0)) as running:
        assert httpx.get(f"{running.url}/ready").status_code == 200
        assert running.service is service
    assert engine.closed
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/ready")


def test_an_error_in_the_block_stops_it_too(service, engine) -> None:
    with pytest.raises(ZeroDivisionError), run_in_background(service, listen("127.0.0.1", 0)) as running:
        print(1 / 0)
    assert engine.closed
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/ready")
