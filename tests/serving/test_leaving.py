"""Clients that leave, without HTTP: the moment and the place can be chosen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from onecard.serving.leaving import ClientLeft, EventStream, unless_client_leaves
from onecard.serving.openai_answers import chat_events
from onecard.serving.service import Service
from onecard.wire.chat import ChatMessage, ChatRequest


async def never() -> Any:
    await asyncio.Event().wait()


def test_work_that_is_done_wins_and_its_error_too() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    assert asyncio.run(unless_client_leaves(never, asyncio.sleep(0, "done"))) == "done"
    with pytest.raises(ZeroDivisionError):
        asyncio.run(unless_client_leaves(never, fails()))


def test_the_work_has_ended_when_the_client_has_left() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append("yes")

    messages = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def run() -> None:
        with pytest.raises(ClientLeft):
            await unless_client_leaves(receive, work())
        assert ended == ["yes"]

    asyncio.run(run())


def test_a_cancelled_handler_cancels_the_work() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("yes")

    async def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(unless_client_leaves(never, work()), 0.05)
        assert ended == ["yes"]

    asyncio.run(run())


def test_a_client_that_stops_reading_and_leaves_ends_the_answer(service: Service, engine) -> None:
    """The stream then hangs in `send`, outside the generator that feeds it."""

    async def run() -> None:
        blocked = asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                blocked.set()
                await never()

        async def receive() -> Any:
            await blocked.wait()
            return {"type": "http.disconnect"}

        request = ChatRequest(model="base", messages=(ChatMessage(role="user", content="a b c"),))
        answer = service.chat(request)
        await answer.begin()
        stream = EventStream(answer, chat_events(answer, usage=False))
        await stream({"type": "http"}, receive, send)
        assert (engine.running, engine.cancelled) == (0, 1)
        assert not service.in_flight

    asyncio.run(run())
