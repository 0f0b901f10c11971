"""Several answers side by side: told apart, ended together."""

from __future__ import annotations

import asyncio

import pytest

from onecard.errors import EngineFailed
from onecard.serving.choices import Choices
from onecard.serving.service import Service
from onecard.wire.chat import CompletionRequest


def choices(service: Service, *prompts: str, n: int = 1) -> Choices:
    return service.complete(CompletionRequest(model="base", prompt=prompts, n=n))


def test_pieces_come_with_the_index_of_their_answer(service: Service, engine) -> None:
    async def run() -> list[str]:
        asked = choices(service, "a b", "c", n=2)
        found = ["", "", "", ""]
        async for index, chunk in asked.chunks():
            found[index] += chunk.text
        assert asked.prompt_tokens == 2 + 1 and not service.in_flight
        return found

    assert asyncio.run(run()) == ["[base] a b ", "[base] a b ", "[base] c ", "[base] c "]
    assert (engine.running, engine.cancelled) == (0, 0)


def test_one_that_fails_ends_them_all(service: Service, engine) -> None:
    async def whole() -> None:
        await choices(service, "slowly a b c d", "please die").whole()

    async def streamed() -> None:
        async for _ in choices(service, "slowly a b c d", "please die").chunks():
            pass

    for way in (whole, streamed):
        with pytest.raises(EngineFailed, match="died"):
            asyncio.run(way())
        assert engine.running == 0 and not service.in_flight


def test_who_stops_listening_cancels_them_all(service: Service, engine) -> None:
    async def run() -> None:
        asked = choices(service, "slowly a b", "slowly c d")
        await asked.begin()
        pieces = asked.chunks()
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(run())
    assert engine.running == 0 and engine.cancelled == 2 and not service.in_flight


def test_requests_are_counted_for_their_adapter_until_they_are_over(service: Service) -> None:
    async def run() -> None:
        asked = service.complete(CompletionRequest(model="explainer", prompt="a"))
        assert (service.uses("digest-1"), service.uses("digest-2")) == (1, 0)
        await asked.whole()
        assert service.uses("digest-1") == 0

    asyncio.run(run())
    service.complete(CompletionRequest(model="explainer", prompt="a"))  # accepted and dropped: never begun
    assert service.uses("digest-1") == 0
