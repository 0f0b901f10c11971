"""The client against a real server on loopback: what it times, and what it says of servers that misbehave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from onecard.errors import EngineFailed, InputError, OnecardError, Overloaded, UnknownName
from onecard.wire.chat import ChatMessage, ChatRequest
from onecard.wire.client import Client, TimedAnswer
from onecard.wire.fake_server import FakeServer, Misbehaviour
from onecard.wire.generate import GenerateRequest

HELLO = ChatRequest(model="fake", messages=(ChatMessage(role="user", content="hello"),))


def ask(server: FakeServer, what: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with server, Client(server.url, **options) as client:
            return await what(client)

    return asyncio.run(run())


def test_a_streamed_answer_has_a_time_for_every_piece() -> None:
    before = time.monotonic()
    server = FakeServer(
        ttft_s=0.05, itl_s=0.01, tokens=5, headers={"x-onecard-agent": "a", "x-onecard-queue-ms": "1.5"}
    )
    answer: TimedAnswer = ask(server, lambda client: client.timed_chat(HELLO))
    assert answer.text == "word0 word1 word2 word3 word4 "
    assert (answer.tokens, answer.finish_reason) == (5, "stop")
    assert answer.usage is not None and answer.usage.prompt_tokens == 4
    assert (answer.who.agent, answer.who.queue_ms, answer.who.adapter) == ("a", 1.5, None)
    times = [before, answer.sent_s, *answer.piece_times_s, answer.end_s, time.monotonic()]
    assert times == sorted(times) and len(answer.piece_times_s) == 5
    assert answer.first_token_s is not None and answer.first_token_s - answer.sent_s >= 0.05
    assert answer.end_s - answer.first_token_s >= 4 * 0.01
    assert server.seen[0].body["stream_options"] == {"include_usage": True}


def test_a_whole_answer_arrives_at_once() -> None:
    answer: TimedAnswer = ask(FakeServer(tokens=3), lambda client: client.chat(HELLO))
    assert (answer.text, answer.tokens) == ("word0 word1 word2 ", 3)
    assert answer.piece_times_s == (answer.end_s,)


@pytest.mark.parametrize("url", ["{}", "{}/", "{}/v1", "{}/v1/"])
def test_a_url_is_taken_with_and_without_v1(url: str) -> None:
    async def run() -> list[str]:
        async with FakeServer(models=("a", "b")) as server, Client(url.format(server.url)) as client:
            return await client.models()

    assert asyncio.run(run()) == ["a", "b"]


def test_keys_are_sent_as_a_bearer_token() -> None:
    server = FakeServer()
    ask(server, lambda client: client.models(), api_key="secret")
    assert server.seen[0].headers["authorization"] == "Bearer secret"


MISBEHAVIOURS: list[tuple[Misbehaviour, str]] = [
    ("break-off", "broke off"),
    ("garbage", "UTF-8"),
    ("no-finish", "before its finish reason"),
    ("goes-on", "after its finish reason"),
    ("fault-in-stream", "the engine died"),
    ("whole-answer", "a whole answer came"),
]


@pytest.mark.parametrize(("misbehaviour", "words"), MISBEHAVIOURS)
def test_a_stream_that_goes_wrong_is_a_clear_error(misbehaviour: Misbehaviour, words: str) -> None:
    with pytest.raises(EngineFailed, match=words) as caught:
        ask(FakeServer(misbehaviour=misbehaviour), lambda client: client.timed_chat(HELLO))
    assert "/v1/chat/completions" in str(caught.value.where)


@pytest.mark.parametrize(
    ("misbehaviour", "words"), [("break-off", "broke off"), ("not-json", "not an answer of this API")]
)
def test_a_whole_answer_that_goes_wrong_is_a_clear_error(misbehaviour: Misbehaviour, words: str) -> None:
    with pytest.raises(EngineFailed, match=words):
        ask(FakeServer(misbehaviour=misbehaviour), lambda client: client.chat(HELLO))


def test_pieces_that_arrived_before_a_break_were_given_out() -> None:
    async def collect(client: Client) -> str:
        text = ""
        with pytest.raises(EngineFailed):
            async for piece in client.stream_chat(HELLO):
                text += piece.text
        return text

    assert ask(FakeServer(tokens=6, misbehaviour="break-off"), collect) == "word0 word1 word2 "


@pytest.mark.parametrize(
    ("status", "kind"), [(500, EngineFailed), (503, Overloaded), (429, Overloaded), (400, InputError)]
)
def test_an_error_answer_carries_the_servers_words(status: int, kind: type[OnecardError]) -> None:
    for call in (Client.chat, Client.timed_chat):
        with pytest.raises(kind, match="fails on purpose"):
            ask(FakeServer(error_every=1, error_status=status), lambda client, call=call: call(client, HELLO))


def test_an_unknown_model_is_an_unknown_name() -> None:
    request = HELLO.model_copy(update={"model": "nobody"})
    with pytest.raises(UnknownName, match="nobody"):
        ask(FakeServer(), lambda client: client.chat(request))


def test_a_server_without_health_says_so() -> None:
    with pytest.raises(UnknownName):
        ask(FakeServer(), lambda client: client.health())
    with pytest.raises(UnknownName):
        ask(FakeServer(), lambda client: client.generate(GenerateRequest(prompt="x")))
    with pytest.raises(EngineFailed, match="not an answer of this API"):
        ask(FakeServer(health={"status": "fine, thanks"}), lambda client: client.health())


def test_a_slow_answer_ends_at_the_time_limit() -> None:
    for call in (Client.chat, Client.timed_chat):
        with pytest.raises(EngineFailed, match=r"no answer within 0\.1 s"):
            ask(FakeServer(ttft_s=5), lambda client, call=call: call(client, HELLO), timeout_s=0.1)


def test_a_dripping_stream_ends_at_the_time_limit_too() -> None:
    with pytest.raises(EngineFailed, match="no answer within"):
        ask(FakeServer(itl_s=0.05, tokens=1000), lambda client: client.timed_chat(HELLO), timeout_s=0.3)


def test_a_slow_consumer_is_not_cancelled_in_its_own_work() -> None:
    """The time limit belongs to the server's answer: it must not strike while the consumer is doing something else."""

    async def dawdle(client: Client) -> str:
        pieces = client.stream_chat(HELLO)
        first = await anext(pieces)
        await asyncio.sleep(0.6)
        with pytest.raises(EngineFailed, match="no answer within"):
            async for _ in pieces:
                pass
        return first.text

    assert ask(FakeServer(itl_s=0.1, tokens=50), dawdle, timeout_s=0.4) == "word0 "


def test_nothing_listening_is_a_clear_error() -> None:
    async def run() -> None:
        async with FakeServer() as server:
            url = server.url
        async with Client(url) as client:
            await client.models()

    with pytest.raises(EngineFailed, match="nothing answers"):
        asyncio.run(run())


@pytest.mark.parametrize("url", ["localhost:8700", "ftp://x", "http://", "http://[::1", "", "http://a:b:c"])
def test_what_is_not_a_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(InputError):
        Client(url)


def test_closing_the_iterator_closes_the_connection() -> None:
    async def leave(client: Client) -> None:
        pieces = client.stream_chat(HELLO)
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)

    server = FakeServer(itl_s=0.02, tokens=1000)
    ask(server, leave)
    assert server.cut_off == 1
