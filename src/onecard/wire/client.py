"""A client for any OpenAI-compatible server, made for measuring: every piece of an answer carries the moment it arrived.

Light: httpx and the wire's records. Times are seconds of time.monotonic(), taken when the bytes come out of the socket, before any
parsing. Whatever a server does wrong (refuses, breaks off, streams garbage, contradicts itself) becomes an OnecardError with its URL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from onecard.errors import EngineFailed, InputError
from onecard.wire.chat import ChatChunk, ChatCompletion, ChatRequest, ModelList, Usage
from onecard.wire.events import DONE, EventReader
from onecard.wire.faults import ErrorBody, error_of
from onecard.wire.generate import GenerateAnswer, GenerateRequest
from onecard.wire.health import Health

Record = TypeVar("Record", bound=BaseModel)
LARGEST_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Who:
    """Who answered, from the x-onecard-* headers; None where a server does not say."""

    agent: str | None = None
    adapter: str | None = None
    digest: str | None = None
    model: str | None = None
    queue_ms: float | None = None

    @staticmethod
    def read(headers: Mapping[str, str]) -> Who:
        return Who(
            agent=headers.get("x-onecard-agent"),
            adapter=headers.get("x-onecard-adapter"),
            digest=headers.get("x-onecard-digest"),
            model=headers.get("x-onecard-model"),
            queue_ms=_number(headers.get("x-onecard-queue-ms")),
        )


@dataclass(frozen=True)
class TimedPiece:
    """A piece of a streamed answer. `who` is the same in all pieces."""

    at_s: float
    text: str
    finish_reason: str | None
    usage: Usage | None
    who: Who


@dataclass(frozen=True)
class TimedAnswer:
    """A whole answer with its times, seconds of time.monotonic(). `piece_times_s` are the pieces with text, in order.

    `tokens` is the server's count when it sent one (`usage`), else the number of pieces with text.
    """

    text: str
    sent_s: float
    end_s: float
    piece_times_s: tuple[float, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    who: Who = field(default_factory=Who)

    @property
    def first_token_s(self) -> float | None:
        return self.piece_times_s[0] if self.piece_times_s else None

    @property
    def tokens(self) -> int:
        return self.usage.completion_tokens if self.usage else len(self.piece_times_s)


class Client:
    """Asks one server. `url` with or without `/v1` at its end; `timeout_s` bounds a whole request, connecting included.

    async with Client("http://127.0.0.1:8700") as client:
        answer = await client.timed_chat(ChatRequest(model="explainer", messages=(...)))
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 300, connections: int = 1000
    ) -> None:
        self.url = _root(url)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(10, timeout_s)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,  # a proxy set for the internet must not stand before a server on loopback
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> list[str]:
        """The names /v1/models lists."""
        listed = await self._whole("GET", "/v1/models", None, ModelList)
        return [card.id for card in listed.data]

    async def health(self) -> Health:
        """GET /health of an onecard service. UnknownName or EngineFailed for servers that have none or another one."""
        return await self._whole("GET", "/health", None, Health)

    async def chat(self, request: ChatRequest) -> TimedAnswer:
        """One answer, not streamed: its one piece arrives with the whole body."""
        sent_s = time.monotonic()
        body = _json(request, stream=None)
        async with self._asked("POST", "/v1/chat/completions", body) as response:
            answer = self._parsed(await self._read(response), response, ChatCompletion)
            end_s, who = time.monotonic(), Who.read(response.headers)
        choice = answer.choices[0]
        return TimedAnswer(
            choice.message.content or "", sent_s, end_s, (end_s,), choice.finish_reason, answer.usage, who
        )

    async def generate(self, request: GenerateRequest) -> tuple[GenerateAnswer, Who]:
        """POST /generate of an onecard service."""
        async with self._asked("POST", "/generate", request.model_dump_json(exclude_none=True)) as response:
            return self._parsed(await self._read(response), response, GenerateAnswer), Who.read(response.headers)

    async def stream_chat(self, request: ChatRequest) -> AsyncIterator[TimedPiece]:
        """The pieces of a streamed answer as they arrive. Closing the iterator closes the connection.

        EngineFailed when the stream ends without a finish reason, continues after it, or is not what was asked for.
        """
        async with self._asked("POST", "/v1/chat/completions", _json(request, stream=True)) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                self._parsed(await self._read(response), response, ChatCompletion)  # an error in a 200, or garbage
                raise EngineFailed("a stream was asked for and a whole answer came", where=str(response.url))
            finished = False
            async for piece in self._pieces(response):
                if finished and (piece.text or piece.finish_reason):
                    raise EngineFailed("the stream went on after its finish reason", where=str(response.url))
                finished = finished or piece.finish_reason is not None
                yield piece
            if not finished:
                raise EngineFailed("the stream broke off before its finish reason", where=str(response.url))

    async def timed_chat(self, request: ChatRequest) -> TimedAnswer:
        """A streamed answer collected with its times; the usage is asked for, so that tokens are the server's count."""
        sent_s = time.monotonic()
        pieces = [piece async for piece in self.stream_chat(with_usage(request))]
        return TimedAnswer(
            text="".join(piece.text for piece in pieces),
            sent_s=sent_s,
            end_s=pieces[-1].at_s,
            piece_times_s=tuple(piece.at_s for piece in pieces if piece.text),
            finish_reason=next(piece.finish_reason for piece in pieces if piece.finish_reason),
            usage=next((piece.usage for piece in reversed(pieces) if piece.usage), None),
            who=pieces[-1].who,
        )

    async def _pieces(self, response: httpx.Response) -> AsyncIterator[TimedPiece]:
        """Every event as a piece, up to [DONE]."""
        where, who = str(response.url), Who.read(response.headers)
        reader = EventReader(where)
        async for data in response.aiter_bytes():
            at_s = time.monotonic()
            for event in reader.feed(data):
                if event == DONE:
                    return
                yield _piece(event, at_s, where, who)
        for event in reader.finish():
            if event != DONE:
                yield _piece(event, time.monotonic(), where, who)

    async def _whole(self, method: str, path: str, body: str | None, shape: type[Record]) -> Record:
        async with self._asked(method, path, body) as response:
            return self._parsed(await self._read(response), response, shape)

    @asynccontextmanager
    async def _asked(self, method: str, path: str, body: str | None) -> AsyncIterator[httpx.Response]:
        """A response whose status is 200, its body not read yet; errors of the server and of the connection translated."""
        url = self.url + path
        headers = {"content-type": "application/json"} if body is not None else {}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.stream(method, url, content=body, headers=headers) as response,
            ):
                if response.status_code != 200:
                    raise error_of(response.status_code, await self._read(response), url)
                yield response
        except httpx.ConnectError as error:
            raise EngineFailed("nothing answers", where=url, next_step="is the service running?") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise EngineFailed(f"no answer within {self._timeout_s:g} s", where=url) from error
        except httpx.HTTPError as error:
            raise EngineFailed(f"the answer broke off ({_reason(error)})", where=url) from error
        except httpx.InvalidURL as error:
            raise InputError(f"not a URL ({error})", where=url) from error

    async def _read(self, response: httpx.Response) -> bytes:
        """The whole body; EngineFailed for one that does not end."""
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > LARGEST_ANSWER_BYTES:
                raise EngineFailed("an answer without end", where=str(response.url))
        return bytes(body)

    def _parsed(self, body: bytes, response: httpx.Response, shape: type[Record]) -> Record:
        where = str(response.url)
        try:
            return shape.model_validate_json(body)
        except ValidationError as error:
            _raise_fault_inside(body, where)
            raise EngineFailed(f"not an answer of this API ({_first(error)})", where=where) from error


def with_usage(request: ChatRequest) -> ChatRequest:
    """The request, asking for the token counts at the end of the stream."""
    return ChatRequest.model_validate(
        {**request.model_dump(), "stream": True, "stream_options": {"include_usage": True}}
    )


def _piece(event: str, at_s: float, where: str, who: Who) -> TimedPiece:
    try:
        chunk = ChatChunk.model_validate_json(event)
    except ValidationError as error:
        _raise_fault_inside(event.encode(), where)
        raise EngineFailed(f"streamed something that is not a chat chunk ({_first(error)})", where=where) from error
    if not chunk.choices and chunk.usage is None:
        _raise_fault_inside(event.encode(), where)
    choice = chunk.choices[0] if chunk.choices else None
    text = (choice.delta.content or "") if choice else ""
    return TimedPiece(at_s, text, choice.finish_reason if choice else None, chunk.usage, who)


def _raise_fault_inside(body: bytes, where: str) -> None:
    """Raises the server's error when the body is one, whatever its status said."""
    try:
        fault = ErrorBody.model_validate_json(body)
    except ValidationError:
        return
    status = fault.error.code if isinstance(fault.error.code, int) else 500
    raise error_of(status, fault.model_dump_json().encode(), where)


def _json(request: ChatRequest, *, stream: bool | None) -> str:
    return request.model_copy(update={"stream": stream}).model_dump_json(exclude_none=True)


def _root(url: str) -> str:
    """The server's root: no slash and no /v1 at the end. InputError for what is not an http URL."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InputError(f"not a URL ({error})", where=url) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"'{url}' is not a URL", allowed="http://host:port or https://host:port")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _first(error: ValidationError) -> str:
    """The first thing wrong with a body, without its content."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
