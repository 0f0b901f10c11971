"""The fake server does what it promises, because the tests of measuring rest on it."""

from __future__ import annotations

import asyncio

import pytest

from onecard.errors import EngineFailed
from onecard.wire.chat import ChatMessage, ChatRequest
from onecard.wire.client import Client, TimedAnswer
from onecard.wire.fake_server import FakeServer

HELLO = ChatRequest(model="fake", messages=(ChatMessage(role="user", content="hello"),))


def many(server: FakeServer, count: int) -> list[TimedAnswer | BaseException]:
    """The answers to so many requests sent at once."""

    async def run() -> list[TimedAnswer | BaseException]:
        async with server, Client(server.url) as client:
            return await asyncio.gather(*(client.timed_chat(HELLO) for _ in range(count)), return_exceptions=True)

    return asyncio.run(run())


def seconds(answer: TimedAnswer | BaseException) -> float:
    assert isinstance(answer, TimedAnswer)
    return answer.end_s - answer.sent_s


def test_requests_run_beside_each_other() -> None:
    answers = many(FakeServer(ttft_s=0.2, tokens=2), 10)
    first, last = min(a.sent_s for a in answers), max(a.end_s for a in answers)  # type: ignore[union-attr]
    assert all(seconds(answer) >= 0.2 for answer in answers)
    assert last - first < 10 * 0.2


def test_with_one_slot_they_queue() -> None:
    assert max(map(seconds, many(FakeServer(ttft_s=0.05, tokens=1, slots=1), 4))) >= 4 * 0.05


def test_every_nth_request_fails() -> None:
    answers = many(FakeServer(error_every=3), 9)
    assert sum(isinstance(answer, EngineFailed) for answer in answers) == 3


def test_a_freeze_holds_everybody_up_once() -> None:
    async def run() -> list[float]:
        async with FakeServer(tokens=2, freeze_after=3, freeze_s=0.3) as server, Client(server.url) as client:
            return [seconds(await client.timed_chat(HELLO)) for _ in range(5)]

    took = asyncio.run(run())
    assert took[2] >= 0.3
    assert max(took[:2] + took[3:]) < 0.3


def test_it_remembers_what_it_was_asked() -> None:
    server = FakeServer()
    many(server, 2)
    assert [(seen.method, seen.path, seen.body["model"]) for seen in server.seen] == [
        ("POST", "/v1/chat/completions", "fake")
    ] * 2


@pytest.mark.parametrize("health", [None, {"status": "ok"}])
def test_leaving_the_context_frees_the_port(health: dict[str, object] | None) -> None:
    async def run() -> int:
        async with FakeServer(health=health) as server:
            port = server.port
        async with FakeServer(port=port) as again:
            return again.port - port

    assert asyncio.run(run()) == 0
