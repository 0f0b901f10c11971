"""What engines ask of a server over HTTP beside the wire's client: streams of completions, and small JSON calls.

The errors are the wire client's own. Each event loop has its own connections, since a connection belongs to the loop that opened it;
an engine may be asked from any of them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Mapping
from json import dumps
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from onecard.errors import EngineFailed
from onecard.wire.chat import Usage
from onecard.wire.client import Client, Who
from onecard.wire.events import DONE, EventReader
from onecard.wire.reply import raise_fault_inside, read_record

LONGEST_S = 3600.0  # the service above has deadlines of its own


class TokenChoice(BaseModel):
    """A piece of a completion as vLLM streams it: the ids of its tokens, and at the end of the prompt's log-probabilities."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str = ""
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_logprobs: tuple[dict[str, dict[str, Any]] | None, ...] | None = None


class TokenCompletion(BaseModel):
    """An answer of /v1/completions, whole or one event of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = ""
    choices: tuple[TokenChoice, ...] = ()
    usage: Usage | None = None
    who: Who = Field(
        default_factory=Who, description="from the headers of the answer, which is the same for all its events"
    )


class EngineClient(Client):
    """The wire's client with what engines need more."""

    async def stream_completion(self, body: Mapping[str, Any]) -> AsyncIterator[TokenCompletion]:
        """The events of a streamed completion; closing the iterator closes the connection, by which the server gives the request up.

        EngineFailed when the stream ends without a finish reason.
        """
        finished = False
        async with self._asked("POST", "/v1/completions", dumps({**body, "stream": True})) as reply:
            if not reply.headers.get("content-type", "").startswith("text/event-stream"):
                await reply.record(TokenCompletion)  # an error in a 200, or garbage
                raise EngineFailed("a stream was asked for and a whole answer came", where=reply.where)
            reader, who = EventReader(reply.where), Who.read(reply.headers)
            async for data in reply.pieces():
                for event in reader.feed(data):
                    if event == DONE:
                        break
                    piece = read_record(event.encode(), TokenCompletion, reply.where)
                    if not piece.choices and piece.usage is None:
                        raise_fault_inside(event.encode(), reply.where)
                    finished = finished or any(choice.finish_reason for choice in piece.choices)
                    yield piece.model_copy(update={"who": who})
            if not finished:
                raise EngineFailed("the stream broke off before its finish reason", where=reply.where)

    async def completion(self, body: Mapping[str, Any]) -> TokenCompletion:
        """A whole completion."""
        async with self._asked("POST", "/v1/completions", dumps(dict(body))) as reply:
            return await reply.record(TokenCompletion)

    async def call(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Any other POST, its body as it is; the server's error unless it answers 200."""
        async with self._asked("POST", path, dumps(dict(body))) as reply:
            return await reply.whole()


class Connections:
    """One client an event loop, to one server at a time: a new address means new clients."""

    def __init__(self, *, timeout_s: float = LONGEST_S) -> None:
        self._timeout_s = timeout_s
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, EngineClient] = weakref.WeakKeyDictionary()

    def to(self, url: str, key: str | None) -> EngineClient:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        known = self._clients.get(loop)
        if known is None or known.url != url:
            known = EngineClient(url, api_key=key, timeout_s=self._timeout_s)
            self._clients[loop] = known
        return known
