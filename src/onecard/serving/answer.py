"""One answer while it is generated: begun before any header is sent, closed whatever happens.

Beginning waits for the first piece. Until then an error still has its own HTTP status, and the time in the queue is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, MutableSet
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from onecard.engines.engine import Chunk, FinishReason, GenerationRequest, TellsLogprobs, TokenLogprob
from onecard.errors import EngineFailed, Overloaded
from onecard.serving.answerers import Answerer
from onecard.serving.limits import Limits
from onecard.serving.metrics import Metrics

LONG_CHARACTERS = 20_000  # some milliseconds of tokenizing
T = TypeVar("T")


@dataclass(frozen=True)
class WholeAnswer:
    """A finished answer; `latency_s` runs from the request's arrival to the last token."""

    text: str
    prompt_tokens: int
    tokens: int
    finish_reason: FinishReason
    latency_s: float
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Place:
    """What an answer shares with every other answer of its service: the register of those in flight, the counts, the limits."""

    in_flight: MutableSet[Any]
    model_id: str
    metrics: Metrics
    limits: Limits


class Answer:
    """What one answerer says to one request. It stands in the service's register while it lives.

    With `echo` the prompt's own tokens are looked at first, when log-probabilities are asked for; an answer of 0 tokens is only that.
    """

    def __init__(
        self, who: Answerer, request: GenerationRequest, preset: str, place: Place, *, echo: bool = False
    ) -> None:
        self.who = who
        self.preset = preset
        self.echo = echo
        self.request = request
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self.prompt_tokens = self.tokens = 0
        self.queue_s = 0.0
        self.first_s: float | None = None
        self._place = place
        self._arrived_s = self._last_s = time.monotonic()
        self._chunks: AsyncIterator[Chunk] | None = None
        self._first: Chunk | None = None
        self.closed = False

    async def begin(self) -> None:
        """Waits for the first piece. Raises what the engine raises, closed by then."""
        self._place.in_flight.add(self)
        try:
            if self.echo and self.request.top_logprobs is not None:
                assert isinstance(self.who.engine, TellsLogprobs)  # the service refuses others
                told = self.who.engine.prompt_logprobs(self.request)
                self.prompt_logprobs = tuple(await self._in_time(told))
            self._chunks = await self._generation() if self.request.max_new_tokens else self._nothing()
            self._first = await self._in_time(anext(self._chunks, None))
            if self._first is None:
                raise EngineFailed(f"{self.who.name} ended before it began")
            self._count(self._first)
        except BaseException:
            await self.aclose()
            raise

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Every piece; the last one has a finish reason. EngineFailed when the engine ends without one."""
        if self._first is None:
            await self.begin()
        chunk = self._first
        try:
            while chunk is not None:
                yield chunk
                if chunk.finish_reason is not None:
                    return
                assert self._chunks is not None
                chunk = await self._in_time(anext(self._chunks, None))
                if chunk is not None:
                    self._count(chunk)
            raise EngineFailed(f"{self.who.name} broke off in the middle of an answer")
        finally:
            await self.aclose()

    async def whole(self) -> WholeAnswer:
        """The answer to its end."""
        told = [chunk async for chunk in self.chunks()]
        last = told[-1]
        assert last.finish_reason is not None
        text = "".join(chunk.text for chunk in told)
        logprobs = tuple(token for chunk in told for token in chunk.logprobs)
        latency_s = time.monotonic() - self._arrived_s
        return WholeAnswer(text, last.prompt_tokens, self.tokens, last.finish_reason, latency_s, logprobs)

    async def aclose(self) -> None:
        """Cancels what is still being generated. Safe to call twice."""
        self._place.in_flight.discard(self)
        if not self.closed:
            self.closed = True
            self._place.metrics.ended(self.who, self.prompt_tokens, self.tokens)
        if (close := getattr(self._chunks, "aclose", None)) is not None:
            await close()

    @property
    def headers(self) -> dict[str, str]:
        """Who answered: these go with every answer, streamed or not. Known once the answer has begun."""
        return headers_of(self.who, self._place.model_id, self.queue_s)

    async def _generation(self) -> AsyncIterator[Chunk]:
        """An engine may tokenize the prompt before it returns: a long one beside the event loop, where it holds nobody up."""
        request = self.request
        if len(request.text or "") + sum(len(turn.content) for turn in request.messages) > LONG_CHARACTERS:
            return await asyncio.to_thread(self.who.engine.generate, request)
        return self.who.engine.generate(request)

    async def _nothing(self) -> AsyncIterator[Chunk]:
        tokens = len(self.prompt_logprobs) or self.who.engine.count_tokens(self.request.text or "")
        yield Chunk("", 0, tokens, "length")

    async def _in_time(self, work: Awaitable[T]) -> T:
        limit_s = self._place.limits.answer_s
        try:
            async with asyncio.timeout(max(self._arrived_s + limit_s - time.monotonic(), 0)):
                return await work
        except TimeoutError:
            raise Overloaded(
                f"no whole answer within {limit_s:g} s",
                where=self.who.name,
                next_step="ask for fewer tokens, or stream the answer",
            ) from None

    def _count(self, chunk: Chunk) -> None:
        now_s = time.monotonic()
        if self.first_s is None:
            self.first_s, self.queue_s, self.prompt_tokens = now_s - self._arrived_s, chunk.queue_s, chunk.prompt_tokens
            self._place.metrics.began(self.who, self.queue_s, self.first_s)
        else:
            self._place.metrics.went_on(self.who, now_s - self._last_s, chunk.tokens)
        self.tokens += chunk.tokens
        self._last_s = now_s


def headers_of(who: Answerer, model_id: str, queue_s: float) -> dict[str, str]:
    """The x-onecard-* headers. A local folder may have any name; a header is ASCII."""
    return {
        "x-onecard-agent": who.agent,
        "x-onecard-adapter": who.adapter or "none",
        "x-onecard-digest": who.digest or "none",
        "x-onecard-model": quote(model_id, safe="/:@ +=,~!()"),
        "x-onecard-queue-ms": f"{queue_s * 1000:.1f}",
    }
