"""Clients that leave: work for nobody is cancelled at once, streamed or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from onecard.serving.choices import Choices

T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody waits for this answer any more."""


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled (and has ended) when the client disconnects: ClientLeft then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


class EventStream(Response):
    """Sends the events of one answer as they come, and closes the answer when it ends or the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, answer: Choices, events: AsyncIterator[bytes]) -> None:
        # x-accel-buffering: nginx would otherwise collect the stream before passing it on.
        quiet = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers={**answer.headers, **quiet})
        del self.headers["content-length"]
        self._answer = answer
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._send(send))
        except ClientLeft:
            pass
        finally:
            await self._answer.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
