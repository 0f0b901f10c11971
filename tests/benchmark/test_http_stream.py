"""The load's own HTTP client against a real server: what the other client says of it too, and every way an answer can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.benchmark.http_stream import BrokeOff, StreamClient, _Answer
from onecard.benchmark.load import StepRun, closed_loop
from onecard.benchmark.prompts import Question, given_prompts
from onecard.errors import EngineFailed, InputError, OnecardError
from onecard.wire.chat import ChatMessage, ChatRequest
from onecard.wire.client import Client, TimedPiece, with_usage
from onecard.wire.fake_server import FakeServer

REQUEST = with_usage(ChatRequest(model="fake", messages=(ChatMessage(role="user", content="h\u00e9llo"),)))


def asked(client: type[Any] = StreamClient, **server: Any) -> tuple[list[TimedPiece], FakeServer]:
    async def ask() -> tuple[list[TimedPiece], FakeServer]:
        async with FakeServer(**{"tokens": 4, **server}) as fake, client(fake.url, timeout_s=1) as one:
            return [piece async for piece in one.stream_chat(REQUEST)], fake

    return asyncio.run(ask())


def test_it_hears_what_the_other_client_hears() -> None:
    ours, _ = asked()
    theirs, _ = asked(Client)
    assert [(p.text, p.finish_reason, p.usage) for p in ours] == [(p.text, p.finish_reason, p.usage) for p in theirs]


def test_what_is_sent_and_who_answered() -> None:
    async def ask() -> tuple[list[TimedPiece], FakeServer]:
        fake = FakeServer(headers={"x-onecard-adapter": "style@v0001"})
        async with fake, StreamClient(f"http://127.0.0.1:{fake.port}/v1/", api_key="sk-1", timeout_s=5) as client:
            return [piece async for piece in client.stream_chat(REQUEST, {"x-deadline-ms": "250"})], fake

    pieces, fake = asyncio.run(ask())
    sent = fake.seen[0]
    assert (sent.headers["x-deadline-ms"], sent.headers["authorization"]) == ("250", "Bearer sk-1")
    assert sent.body["messages"][0]["content"] == "h\u00e9llo" and sent.body["stream"] is True
    assert pieces[0].who.adapter == "style@v0001"


@pytest.mark.parametrize(
    "server",
    [
        {"error_every": 1, "error_status": 503}, {"error_every": 1, "error_status": 400}, {"models": ("other",)},
        {"misbehaviour": "break-off"},
        {"misbehaviour": "garbage"}, {"misbehaviour": "no-finish"}, {"misbehaviour": "goes-on"}, {"misbehaviour": "fault-in-stream"},
        {"misbehaviour": "whole-answer"}, {"ttft_s": 30},
    ],
    ids=str,
)  # fmt: skip
def test_it_refuses_what_the_other_client_refuses_in_the_same_words(server: dict[str, Any]) -> None:
    said = []
    for client in (StreamClient, Client):
        with pytest.raises(OnecardError) as caught:
            asked(client, **server)
        said.append((type(caught.value), caught.value.problem.partition("(")[0]))
    assert said[0] == said[1]


def test_nothing_there() -> None:
    async def ask() -> None:
        async with StreamClient("http://127.0.0.1:9", timeout_s=5) as client:
            async for _ in client.stream_chat(REQUEST):
                pass

    with pytest.raises(EngineFailed, match="nothing answers"):
        asyncio.run(ask())
    for url in ("ftp://x", "http://", "nonsense:", "http://x:port"):
        with pytest.raises(InputError, match="not a URL"):
            StreamClient(url)


def test_one_connection_serves_one_caller() -> None:
    async def connections() -> int:
        async with FakeServer(tokens=2, models=("fake",)) as fake, StreamClient(fake.url, timeout_s=5) as client:
            question = Question("fake", None, given_prompts(["x"], "x").rows[0])
            await closed_loop(client, [[question] * 5], StepRun(), max_new_tokens=None)
            return len(fake._connections)

    assert asyncio.run(connections()) == 1


def raw(answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> list[TimedPiece]:
    """What the client makes of bytes that no proper server sends."""

    async def ask() -> list[TimedPiece]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}")
            await answer(writer)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with (
            server,
            StreamClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=2) as client,
        ):
            return [piece async for piece in client.stream_chat(REQUEST)]

    return asyncio.run(ask())


EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "w"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"\r\n" + EVENT,
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: %d\r\n\r\n" % len(EVENT) + EVENT,
        HEAD + b"transfer-encoding: chunked\r\n\r\n%x;ext=1\r\n" % len(EVENT) + EVENT + b"\r\n0\r\nx: trailer\r\n\r\n",
    ],
    ids=["until it closes", "interim answer, length", "chunked"],
)
def test_every_framing_of_http_is_read_also_byte_by_byte(sent: bytes) -> None:
    async def whole(writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async def crumbs(writer: asyncio.StreamWriter) -> None:
        for byte in sent:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
            await writer.drain()

    for way in (whole, crumbs):
        assert [piece.text for piece in raw(way)] == ["w"]


@pytest.mark.parametrize(
    "sent",
    [b"", b"SSH-2.0-OpenSSH\r\n\r\n", HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
     HEAD + b"transfer-encoding: chunked\r\n\r\n-5\r\nxx",
     HEAD + b"content-length: 900\r\n\r\n" + EVENT, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000],
    ids=["nothing", "not HTTP", "no size", "a negative size", "half closed", "headers without end"],
)  # fmt: skip
def test_what_is_not_http_is_a_broken_answer(sent: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    with pytest.raises(EngineFailed, match="broke off"):
        raw(answer)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1))
@settings(max_examples=150)
def test_chunks_cut_anywhere_are_the_body(chunks: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(b"%x\r\n" % len(chunk) + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"
    answer, found, at, turn = _Answer(200, {}, b"", 0.0, chunked=True, left=0), b"", 0, 0
    while at < len(wire):
        assert not answer.ended
        step = cuts[turn % len(cuts)]
        found += answer.feed(wire[at : at + step])
        at, turn = at + step, turn + 1
    assert answer.ended and found == b"".join(chunks)


def test_a_chunk_without_end_of_its_size_line_is_given_up() -> None:
    answer = _Answer(200, {}, b"", 0.0, chunked=True, left=0)
    with pytest.raises(BrokeOff):
        answer.feed(b"1" * 200_000)
