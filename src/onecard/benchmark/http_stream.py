"""The load's own way to a server: HTTP/1.1 over bare asyncio transports, so that the client costs microseconds and not milliseconds.

The moment of a piece is taken in the callback that hands over its bytes, before any parsing and before any task is woken. A request is
never sent twice: what breaks off is an outcome. It goes straight to the server, since a proxy would be measured too.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

import httpx

from onecard.errors import EngineFailed, InputError
from onecard.wire.chat import ChatChunk, ChatRequest
from onecard.wire.client import CHAT, TimedPiece, Who
from onecard.wire.events import DONE, EventReader
from onecard.wire.faults import error_of
from onecard.wire.reply import raise_fault_inside, read_record

# Servers close idle connections (uvicorn after 5 s); one that may be closing just now is not used again.
LONGEST_IDLE_S = 2.0
LARGEST_HEAD_BYTES = 64 * 1024
LARGEST_FAULT_BYTES = 2**20


class BrokeOff(Exception):
    """The connection ended, or said something that is not HTTP, before the answer was whole."""


class _Line(asyncio.Protocol):
    """One connection: what arrived, with its moment, until somebody takes it."""

    def __init__(self) -> None:
        self.idle_since_s = 0.0
        self.lost: Exception | None = None
        self._arrived: deque[tuple[float, bytes]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._arrived.append((time.monotonic(), data))
        self._wake()

    def eof_received(self) -> None:
        self.lost = self.lost or BrokeOff("the connection was closed")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.lost or BrokeOff(str(exc) or "the connection was closed")
        self._wake()

    def time_out(self) -> None:
        self.lost = TimeoutError()
        self._wake()

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def next(self) -> tuple[float, bytes]:
        """The next bytes and when they came; what is lost is raised after everything that arrived was taken."""
        while not self._arrived:
            if self.lost is not None:
                raise self.lost
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._arrived.popleft()

    def put_back(self, at_s: float, data: bytes) -> None:
        if data:
            self._arrived.appendleft((at_s, data))

    @property
    def quiet(self) -> bool:
        """Whether it can carry another request: open, nothing left over, not idle for long."""
        return not self.lost and not self._arrived and time.monotonic() - self.idle_since_s < LONGEST_IDLE_S

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass
class _Answer:
    """The head of an answer and the state of its body: `left` bytes to come, of this chunk or of all; None: until it closes."""

    status: int
    headers: dict[str, str]
    rest: bytes
    rest_at_s: float
    chunked: bool = False
    left: int | None = None
    ended: bool = False
    _head: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> bytes:
        """The body's bytes among those of the wire."""
        if not self.chunked:
            if self.left is None:
                return data
            self.left -= len(data)
            self.ended = self.left <= 0
            return data
        buffer, found, at = bytes(self._head) + data, [], 0
        self._head.clear()
        while at < len(buffer) and not self.ended:
            if self.left:
                piece = buffer[at : at + self.left]
                found.append(piece)
                at, self.left = at + len(piece), self.left - len(piece)
                continue
            # A size, preceded by the line break that ends the chunk before; kept for later when it is not whole yet.
            start = at + 2 if buffer[at : at + 2] == b"\r\n" else at
            end = buffer.find(b"\r\n", start)
            if end < 0 or ((size := _size(buffer[start:end])) == 0 and len(buffer) < end + 4):
                if len(buffer) - at > LARGEST_HEAD_BYTES:
                    raise BrokeOff("a chunk without size")
                self._head += buffer[at:]
                break
            self.left, at = size, end + 2
            self.ended = size == 0
        return b"".join(found)


def _size(line: bytes) -> int:
    try:
        size = int(line.split(b";")[0], 16)
    except ValueError:
        size = -1
    if size < 0:
        raise BrokeOff(f"not a chunk's size: {line[:20]!r}")
    return size


class StreamClient:
    """Asks one server for streamed answers; as `onecard.wire.client.Client`, and lighter.

    `timeout_s` bounds a whole request, from connecting to the last piece.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 300) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(f"not a URL ({error})", where=url) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"'{url}' is not a URL", allowed="http://host:port or https://host:port")
        root = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self.where = root + CHAT
        self._host, self._port = parts.hostname, port or (443 if parts.scheme == "https" else 80)
        self._tls: ssl.SSLContext | None = httpx.create_ssl_context() if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._idle: list[_Line] = []
        key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"POST {urlsplit(root).path}{CHAT} HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\n{key}"
            "accept: text/event-stream\r\ncontent-type: application/json\r\n"
        )

    async def __aenter__(self) -> StreamClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._idle:
            line.close()

    async def stream_chat(
        self, request: ChatRequest, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[TimedPiece]:
        """The pieces of a streamed answer as they arrive. Closing the iterator closes the connection.

        EngineFailed when nothing answers, or not in time, or the stream breaks off, goes on after its finish reason, or is garbage.
        """
        loop = asyncio.get_running_loop()
        streamed = request if request.stream else request.model_copy(update={"stream": True})
        body = streamed.model_dump_json(exclude_none=True).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        end_s = loop.time() + self._timeout_s
        line: _Line | None = None
        kept = False
        try:
            line = await self._line(end_s)
            timer = loop.call_at(end_s, line.time_out)
            try:
                line.write(f"{self._head}{extra}content-length: {len(body)}\r\n\r\n".encode() + body)
                answer = await _head_of(line)
                async for piece in self._pieces(line, answer):
                    yield piece
                kept = answer.ended and answer.headers.get("connection", "").lower() != "close"
            finally:
                timer.cancel()
        except TimeoutError as error:
            raise EngineFailed(f"no answer within {self._timeout_s:g} s", where=self.where) from error
        except (BrokeOff, OSError) as error:
            if line is None:
                raise EngineFailed("nothing answers", where=self.where, next_step="is the service running?") from error
            raise EngineFailed(f"the answer broke off ({error})", where=self.where) from error
        finally:
            if line is not None:
                self._give_back(line, kept)

    async def _line(self, end_s: float) -> _Line:
        """The connection used last, while its server still holds it, or a new one."""
        while self._idle:
            line = self._idle.pop()
            if line.quiet:
                return line
            line.close()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout_at(end_s):
            _, line = await loop.create_connection(_Line, self._host, self._port, ssl=self._tls)
        return line

    def _give_back(self, line: _Line, kept: bool) -> None:
        line.idle_since_s = time.monotonic()
        if kept and line.quiet:
            self._idle.append(line)
        else:
            line.close()

    async def _pieces(self, line: _Line, answer: _Answer) -> AsyncIterator[TimedPiece]:
        """Every event as a piece, up to the end of the body."""
        if answer.status != 200:
            raise error_of(answer.status, await _whole(line, answer), self.where)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise_fault_inside(await _whole(line, answer), self.where)
            raise EngineFailed("a stream was asked for and a whole answer came", where=self.where)
        who, reader, finished, done = Who.read(answer.headers), EventReader(self.where), False, False
        async for at_s, data in _body(line, answer):
            for event in reader.feed(data):
                if event == DONE or done:
                    done = True
                    continue
                piece = _piece(event, at_s, self.where, who)
                if finished and (piece.text or piece.finish_reason):
                    raise EngineFailed("the stream went on after its finish reason", where=self.where)
                finished = finished or piece.finish_reason is not None
                yield piece
        if not finished:
            raise EngineFailed("the stream broke off before its finish reason", where=self.where)


async def _head_of(line: _Line) -> _Answer:
    """The status and headers of an answer; interim answers (100, 103) are passed over."""
    arrived, at_s = b"", 0.0
    while b"\r\n\r\n" not in arrived:
        if len(arrived) > LARGEST_HEAD_BYTES:
            raise BrokeOff("headers without end")
        at_s, data = await line.next()
        arrived += data
    head, _, rest = arrived.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise BrokeOff(f"not an HTTP answer: {first[:40]!r}")
    if words[1].startswith("1"):
        line.put_back(at_s, rest)
        return await _head_of(line)
    headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = headers.get("content-length", "")
    left = 0 if chunked else int(length) if length.isdecimal() else None
    return _Answer(int(words[1]), headers, rest, at_s, chunked, left, ended=left == 0 and not chunked)


async def _body(line: _Line, answer: _Answer) -> AsyncIterator[tuple[float, bytes]]:
    """The body's bytes as they arrive, with their moments."""
    if answer.rest:
        yield answer.rest_at_s, answer.feed(answer.rest)
    while not answer.ended:
        try:
            at_s, data = await line.next()
        except BrokeOff:
            if answer.left is None and not answer.chunked:
                return  # a body without length ends where its connection ends
            raise
        yield at_s, answer.feed(data)


async def _whole(line: _Line, answer: _Answer) -> bytes:
    found = b""
    async for _, data in _body(line, answer):
        found += data
        if len(found) > LARGEST_FAULT_BYTES:
            raise BrokeOff("an answer without end")
    return found


def _piece(event: str, at_s: float, where: str, who: Who) -> TimedPiece:
    chunk = read_record(event.encode(), ChatChunk, where)
    if not chunk.choices and chunk.usage is None:
        raise_fault_inside(event.encode(), where)
    choice = chunk.choices[0] if chunk.choices else None
    text = (choice.delta.content or "") if choice else ""
    return TimedPiece(at_s, text, choice.finish_reason if choice else None, chunk.usage, who)
