"""One answer's life: begun, told, closed, whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from onecard.engines.engine import GenerationRequest, Message
from onecard.errors import EngineFailed, InputError
from onecard.serving.answer import Answer, Place
from onecard.serving.answerers import Answerer
from onecard.serving.limits import Limits
from onecard.serving.metrics import Metrics

METRICS, LIMITS = Metrics(), Limits()


def answer(engine, prompt: str, in_flight: set[Answer] | None = None, model_id: str = "m", **fields) -> Answer:
    request = GenerationRequest(messages=(Message("user", prompt),), **{"max_new_tokens": 8, **fields})
    who = Answerer("clerk", "base", engine)
    return Answer(
        who, request, "default", Place(in_flight if in_flight is not None else set(), model_id, METRICS, LIMITS)
    )


def test_a_whole_answer_counts_its_tokens(engine) -> None:
    whole = asyncio.run(answer(engine, "one two three").whole())
    assert (whole.text, whole.tokens, whole.prompt_tokens, whole.finish_reason) == (
        "[base] one two three ",
        4,
        3,
        "stop",
    )
    assert whole.latency_s > 0
    assert asyncio.run(answer(engine, "one two three", max_new_tokens=2).whole()).finish_reason == "length"


def test_it_is_in_flight_from_its_beginning_to_its_end(engine) -> None:
    async def run() -> None:
        in_flight: set[Answer] = set()
        one = answer(engine, "a b", in_flight)
        assert not in_flight
        await one.begin()
        assert in_flight == {one}
        assert one.headers["x-onecard-queue-ms"] == "12.5"
        assert len([chunk async for chunk in one.chunks()]) == 3
        assert not in_flight and engine.running == 0 and engine.cancelled == 0

    asyncio.run(run())


def test_closing_cancels_the_engine(engine) -> None:
    async def run() -> None:
        in_flight: set[Answer] = set()
        one = answer(engine, "slowly a b c", in_flight)
        await one.begin()
        await one.aclose()
        await one.aclose()
        assert not in_flight and engine.running == 0 and engine.cancelled == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("prompt", "error"), [("nothing", EngineFailed), ("a die", EngineFailed), ("a crash", RuntimeError)]
)
def test_an_engine_that_fails_leaves_nothing_in_flight(engine, prompt: str, error: type[Exception]) -> None:
    in_flight: set[Answer] = set()
    with pytest.raises(error):
        asyncio.run(answer(engine, prompt, in_flight).whole())
    assert not in_flight and engine.running == 0


def test_an_engine_that_ends_without_a_reason_is_caught(engine) -> None:
    async def words(request, words):
        yield (await anext(original(request, words))).__class__("half ", 1, 1, None)

    original, engine._words = engine._words, words
    with pytest.raises(EngineFailed, match="broke off"):
        asyncio.run(answer(engine, "a b").whole())


def test_a_prompt_that_does_not_fit_is_refused_at_the_beginning(engine) -> None:
    with pytest.raises(InputError, match="the context holds 64"):
        asyncio.run(answer(engine, "word " * 60).begin())


def test_a_long_prompt_is_tokenized_beside_the_event_loop(engine) -> None:
    """An engine may tokenize inside generate(); megabytes of it must not hold up everybody else."""
    import threading

    where: list[str] = []
    original = engine.generate

    def generate(request):
        where.append(threading.current_thread().name)
        return original(request)

    engine.generate = generate
    for prompt in ("short", "x" * 1_000_000):
        asyncio.run(answer(engine, prompt).whole())
    assert where[0] == "MainThread" and where[1] != "MainThread"


def test_headers_are_ascii_whatever_the_model_is_called(engine) -> None:
    headers = answer(engine, "a", model_id="/m\u00f6dels/\u6a21\r\nx-evil: 1").headers
    assert all(value.isascii() and "\n" not in value and "\r" not in value for value in headers.values())
    assert (headers["x-onecard-adapter"], headers["x-onecard-digest"]) == ("none", "none")
