"""One answer while it is generated: begun before any header is sent, closed whatever happens.

Beginning waits for the first piece. Until then an error still has its own HTTP status, and the time in the queue is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

from onecard.engines.engine import Chunk, FinishReason, GenerationRequest
from onecard.errors import EngineFailed
from onecard.serving.answerers import Answerer

LONG_CHARACTERS = 20_000  # some milliseconds of tokenizing


@dataclass(frozen=True)
class WholeAnswer:
    """A finished answer; `latency_s` runs from the request's arrival to the last token."""

    text: str
    prompt_tokens: int
    tokens: int
    finish_reason: FinishReason
    latency_s: float


class Answer:
    """What one answerer says to one request. `in_flight` is the service's register of answers, this one while it lives."""

    def __init__(
        self, who: Answerer, request: GenerationRequest, preset: str, in_flight: set[Answer], model_id: str
    ) -> None:
        self.who = who
        self.preset = preset
        self._model_id = model_id
        self._request = request
        self._in_flight = in_flight
        self._arrived_s = time.monotonic()
        self._chunks: AsyncIterator[Chunk] | None = None
        self._first: Chunk | None = None

    async def begin(self) -> None:
        """Waits for the first piece. Raises what the engine raises, closed by then."""
        self._in_flight.add(self)
        try:
            self._chunks = await self._generation()
            self._first = await anext(self._chunks, None)
            if self._first is None:
                raise EngineFailed(f"{self.who.name} ended before it began")
        except BaseException:
            await self.aclose()
            raise

    async def _generation(self) -> AsyncIterator[Chunk]:
        """An engine may tokenize the prompt before it returns: a long one beside the event loop, where it holds nobody up."""
        request = self._request
        if len(request.text or "") + sum(len(turn.content) for turn in request.messages) > LONG_CHARACTERS:
            return await asyncio.to_thread(self.who.engine.generate, request)
        return self.who.engine.generate(request)

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
                chunk = await anext(self._chunks, None)
            raise EngineFailed(f"{self.who.name} broke off in the middle of an answer")
        finally:
            await self.aclose()

    async def whole(self) -> WholeAnswer:
        """The answer to its end."""
        text, tokens, last = [], 0, None
        async for chunk in self.chunks():
            text.append(chunk.text)
            tokens += chunk.tokens
            last = chunk
        assert last is not None and last.finish_reason is not None
        latency_s = time.monotonic() - self._arrived_s
        return WholeAnswer("".join(text), last.prompt_tokens, tokens, last.finish_reason, latency_s)

    async def aclose(self) -> None:
        """Cancels what is still being generated. Safe to call twice."""
        self._in_flight.discard(self)
        if (close := getattr(self._chunks, "aclose", None)) is not None:
            await close()

    @property
    def headers(self) -> dict[str, str]:
        """Who answered: these go with every answer, streamed or not. Known once the answer has begun."""
        queue_s = self._first.queue_s if self._first else 0.0
        return {
            "x-onecard-agent": self.who.agent,
            "x-onecard-adapter": self.who.adapter or "none",
            "x-onecard-digest": self.who.digest or "none",
            # A local folder may have any name; a header is ASCII.
            "x-onecard-model": quote(self._model_id, safe="/:@ +=,~!()"),
            "x-onecard-queue-ms": f"{queue_s * 1000:.1f}",
        }
