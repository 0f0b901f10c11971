"""Result files and a real server on loopback for the tests of this room."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from onecard.evidence.results import ResultFile
from onecard.wire.fake_server import FakeServer

Serve = Callable[..., Any]

HEALTH = {
    "status": "ok",
    "fleet": "demo",
    "fleet_digest": "ab" * 32,
    "models": [
        {
            "name": "base",
            "id": "embedded:mini",
            "fingerprint": "f",
            "engine": "local",
            "engine_version": "1.2",
            "quantization": "nf4",
            "dtype": "bf16",
            "device": "cpu",
            "context": 512,
            "concurrency": 6,
        }
    ],
    "adapters": [{"agent": "explainer", "model": "base", "adapter": "style@v0001", "presets": ["terse"]}],
    "memory": {"process_bytes": 3 * 2**30},
}


@contextmanager
def served(**settings: Any) -> Iterator[FakeServer]:
    """A fake server in a thread of its own, so that a test can measure it as a program would."""
    server = FakeServer(**{"models": ("explainer",), **settings})
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with server:
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def serve() -> Serve:
    return served


@pytest.fixture
def health() -> dict[str, Any]:
    return HEALTH


def made_request(
    caller: int, intended_s: float, ttft_s: float, itl_s: float, tokens: int, **changes: Any
) -> dict[str, Any]:
    pieces = [round(intended_s + ttft_s + itl_s * n, 6) for n in range(tokens)]
    return {
        "caller": caller,
        "prompt": 0,
        "agent": "explainer",
        "preset": "terse",
        "intended_s": intended_s,
        "sent_s": intended_s,
        "first_token_s": pieces[0],
        "pieces_s": pieces,
        "end_s": pieces[-1],
        "outcome": "ok",
        "new_tokens": tokens,
        "http_status": 200,
        "adapter": "style@v0001",
        **changes,
    }


def made_result(callers: tuple[int, ...] = (1, 2), repeats: int = 3, requests: int = 24, **changes: Any) -> ResultFile:
    """A whole result without a server: latency grows a little with callers and with the repeat."""
    steps = []
    for count in callers:
        for repeat in range(1, repeats + 1):
            made = []
            for caller in range(count):
                at = 0.0
                for number in range(requests):
                    row = made_request(
                        caller, round(at, 6), 0.02 * count + 0.001 * (number % 5), 0.005 + 0.001 * repeat, 8
                    )
                    at = row["end_s"]
                    made.append(row)
            memory = [{"moment": "after", "kind": "process", "bytes": 2**30}]
            steps.append({"callers": count, "repeat": repeat, "started_at": "", "requests": made, "memory": memory})
    document: dict[str, Any] = {
        "started_at": "2026-11-21T12:00:00+00:00",
        "ended_at": "2026-11-21T12:01:00+00:00",
        "what": {"url": "http://127.0.0.1:1", "agents": ["explainer"], "model": "embedded:mini", "fleet": "demo"},
        "where": {
            "server": "this machine",
            "cpu": "a CPU",
            "cores": 2,
            "ram_gib": 4,
            "system": "Linux",
            "versions": {"onecard": "0"},
        },
        "how": {
            "callers": callers,
            "requests": requests,
            "repeats": repeats,
            "warmup_requests": 1,
            "seed": 0,
            "timeout_s": 10,
            "prompts": "p.jsonl",
            "prompts_sha256": "ab",
            "prompts_rows": 3,
            "command": "onecard bench sweep demo.yaml",
        },
        "steps": steps,
    }
    for key, value in changes.items():
        document[key] = {**document[key], **value} if isinstance(document.get(key), dict) else value
    return ResultFile.model_validate(document)


@pytest.fixture(scope="session")
def make_result() -> Callable[..., ResultFile]:
    return made_result
