"""Real HTTP on loopback: the wire's fake server stands for any server, with and without what onecard's own service says."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest

from onecard.errors import EngineFailed, UnknownName
from onecard.evaluation.over_url import Server, reach
from onecard.evaluation.suite import Answer
from onecard.wire.client import Client
from onecard.wire.fake_server import FakeServer

DIGEST = "d" * 64
OURS: dict[str, Any] = {
    "status": "ok",
    "adapters": [
        {"agent": "writer", "model": "base", "adapter": "style@v0002", "digest": DIGEST, "presets": ["terse"]}
    ],
}


def asked(
    makes: ModuleType, server: FakeServer, name: str = "writer", base: bool = False
) -> tuple[Server, Answer, dict[str, Any]]:
    """One terse question to a name: what the server said of itself, its answer, and the request it saw."""

    async def ask() -> tuple[Server, Answer]:
        async with server, Client(server.url) as client:
            found = await reach(client)
            found.demand(name)
            return found, await found.ask(name, makes.PRESETS, 0)(makes.a_question())

    found, answer = asyncio.run(ask())
    return found, answer, server.seen[-1].body


def test_any_server_gets_the_presets_token_and_settings(makes: ModuleType) -> None:
    found, answer, body = asked(makes, FakeServer(tokens=5, models=("writer",)))
    assert (found.health, found.has_base) == (None, False)
    assert body["messages"] == [{"role": "user", "content": f"<T> {makes.a_question().prompt}"}]
    assert (body["max_tokens"], body["temperature"]) == (32, 0.0)
    assert "preset" not in body
    assert (answer.finish_reason, answer.tokens) == ("stop", 5)


def test_an_onecard_service_is_asked_by_preset_and_puts_the_token_itself(makes: ModuleType) -> None:
    server = FakeServer(models=("writer", "base"), health=OURS, headers={"x-onecard-digest": DIGEST})
    found, _, body = asked(makes, server)
    assert found.has_base
    assert found.told("writer") is not None
    assert body["preset"] == "terse"
    assert body["messages"][0]["content"] == makes.a_question().prompt


def test_the_base_of_an_onecard_service_has_none_of_the_agents_presets(makes: ModuleType) -> None:
    _, _, body = asked(makes, FakeServer(models=("writer", "base"), health=OURS), "base")
    assert "preset" not in body


def test_a_health_page_of_another_kind_of_server_makes_it_no_onecard_service(makes: ModuleType) -> None:
    _, _, body = asked(makes, FakeServer(models=("writer",), health={"status": "ok"}))
    assert "preset" not in body
    assert body["messages"][0]["content"].startswith("<T> ")


@pytest.mark.parametrize("headers", [{}, {"x-onecard-digest": "e" * 64}])
def test_another_adapter_than_was_promised_ends_the_run(makes: ModuleType, headers: dict[str, str]) -> None:
    with pytest.raises(EngineFailed, match="writer was dddddddddddd at first"):
        asked(makes, FakeServer(models=("writer",), health=OURS, headers=headers))


def test_a_name_the_server_does_not_list_is_an_error_with_those_it_does(makes: ModuleType) -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'writer'.*Allowed: writer, base"):
        asked(makes, FakeServer(models=("writer", "base")), "writr")


def test_nobody_there_is_said_at_once() -> None:
    async def ask() -> None:
        async with FakeServer() as server:
            url = server.url
        async with Client(url) as client:
            await reach(client)

    with pytest.raises(EngineFailed, match="nothing answers"):
        asyncio.run(ask())
