"""A client for any OpenAI-compatible server, made for measuring: every piece of an answer carries the moment it arrived.

Light: httpx and the wire's records. Times are seconds of time.monotonic(), taken when the bytes come out of the socket, before any
parsing. Whatever a server does wrong (refuses, breaks off, streams garbage, contradicts itself) becomes an OnecardError with its URL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType

import httpx

from onecard.errors import EngineFailed, InputError
from onecard.wire.chat import ChatChunk, ChatCompletion, ChatRequest, Completion, CompletionRequest, ModelList, Usage
from onecard.wire.events import DONE, EventReader
from onecard.wire.faults import error_of
from onecard.wire.generate import GenerateAnswer, GenerateRequest
from onecard.wire.health import Health
from onecard.wire.reply import Record, Reply, raise_fault_inside, read_record
from onecard.wire.rerank import RerankAnswer, RerankRequest

CHAT = "/v1/chat/completions"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    """Asks one server. `url` with or without `/v1` at its end; `timeout_s` bounds a whole request, from
    connecting to the last piece of a stream.

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
            trust_env=httpx.URL(self.url).host
            not in LOOPBACK,  # a proxy for the internet must not stand before loopback
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
        listed = await self._whole("GET", "/v1/models", ModelList)
        return [card.id for card in listed.data]

    async def health(self) -> Health:
        """GET /health of an onecard service. UnknownName or EngineFailed for servers that have none or another one."""
        return await self._whole("GET", "/health", Health)

    async def chat(self, request: ChatRequest) -> TimedAnswer:
        """One answer, not streamed: its one piece arrives with the whole body."""
        sent_s = time.monotonic()
        async with self._asked("POST", CHAT, _json(request, stream=None)) as reply:
            answer = await reply.record(ChatCompletion)
            end_s, who = time.monotonic(), Who.read(reply.headers)
        choice = answer.choices[0]
        return TimedAnswer(
            choice.message.content or "", sent_s, end_s, (end_s,), choice.finish_reason, answer.usage, who
        )

    async def complete(self, request: CompletionRequest) -> Completion:
        """POST /v1/completions, not streamed; fields the record does not know (`echo`, `logprobs`) are sent as they are."""
        body = request.model_copy(update={"stream": None}).model_dump_json(exclude_none=True)
        async with self._asked("POST", "/v1/completions", body) as reply:
            return await reply.record(Completion)

    async def generate(self, request: GenerateRequest) -> tuple[GenerateAnswer, Who]:
        """POST /generate of an onecard service."""
        async with self._asked("POST", "/generate", request.model_dump_json(exclude_none=True)) as reply:
            return await reply.record(GenerateAnswer), Who.read(reply.headers)

    async def rerank(self, request: RerankRequest) -> tuple[RerankAnswer, Who]:
        """POST /v1/rerank."""
        async with self._asked("POST", "/v1/rerank", request.model_dump_json(exclude_defaults=True)) as reply:
            return await reply.record(RerankAnswer), Who.read(reply.headers)

    async def stream_chat(self, request: ChatRequest) -> AsyncIterator[TimedPiece]:
        """The pieces of a streamed answer as they arrive. Closing the iterator closes the connection.

        EngineFailed when the stream ends without a finish reason, continues after it, or is not what was asked for.
        """
        async with self._asked("POST", CHAT, _json(request, stream=True)) as reply:
            if not reply.headers.get("content-type", "").startswith("text/event-stream"):
                await reply.record(ChatCompletion)  # an error in a 200, or garbage
                raise EngineFailed("a stream was asked for and a whole answer came", where=reply.where)
            finished = False
            async for piece in _pieces(reply):
                if finished and (piece.text or piece.finish_reason):
                    raise EngineFailed("the stream went on after its finish reason", where=reply.where)
                finished = finished or piece.finish_reason is not None
                yield piece
            if not finished:
                raise EngineFailed("the stream broke off before its finish reason", where=reply.where)

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

    async def _whole(self, method: str, path: str, shape: type[Record]) -> Record:
        async with self._asked(method, path, None) as reply:
            return await reply.record(shape)

    @asynccontextmanager
    async def _asked(self, method: str, path: str, body: str | None) -> AsyncIterator[Reply]:
        """A reply whose status is 200, its body not read yet; errors of the server and of the connection translated."""
        url = self.url + path
        headers = {"content-type": "application/json"} if body is not None else {}
        end_s = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with AsyncExitStack() as open_until_read:
                async with asyncio.timeout_at(end_s):
                    asking = self._http.stream(method, url, content=body, headers=headers)
                    reply = Reply(await open_until_read.enter_async_context(asking), end_s)
                if reply.status != 200:
                    raise error_of(reply.status, await reply.whole(), url)
                yield reply
        except httpx.ConnectError as error:
            raise EngineFailed("nothing answers", where=url, next_step="is the service running?") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise EngineFailed(f"no answer within {self._timeout_s:g} s", where=url) from error
        except httpx.HTTPError as error:
            raise EngineFailed(f"the answer broke off ({str(error) or type(error).__name__})", where=url) from error
        except httpx.InvalidURL as error:
            raise InputError(f"not a URL ({error})", where=url) from error


async def _pieces(reply: Reply) -> AsyncIterator[TimedPiece]:
    """Every event as a piece, up to [DONE]."""
    who, reader = Who.read(reply.headers), EventReader(reply.where)
    async for data in reply.pieces():
        at_s = time.monotonic()
        for event in reader.feed(data):
            if event == DONE:
                return
            yield _piece(event, at_s, reply.where, who)
    for event in reader.finish():
        if event != DONE:
            yield _piece(event, time.monotonic(), reply.where, who)


def with_usage(request: ChatRequest) -> ChatRequest:
    """The request, asking for the token counts at the end of the stream."""
    return ChatRequest.model_validate(
        {**request.model_dump(), "stream": True, "stream_options": {"include_usage": True}}
    )


def _piece(event: str, at_s: float, where: str, who: Who) -> TimedPiece:
    chunk = read_record(event.encode(), ChatChunk, where)
    if not chunk.choices and chunk.usage is None:
        raise_fault_inside(event.encode(), where)
    choice = chunk.choices[0] if chunk.choices else None
    text = (choice.delta.content or "") if choice else ""
    return TimedPiece(at_s, text, choice.finish_reason if choice else None, chunk.usage, who)


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
