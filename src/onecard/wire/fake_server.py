"""An OpenAI-compatible server of known latency for tests: nothing but asyncio streams, so it costs nearly nothing itself.

Every request is answered with the same number of words, the first after `ttft_s`, the others every `itl_s`. It can also misbehave in the
ways real servers do: fail every nth request, stand still for a while, break off, stream garbage, never finish.

    async with FakeServer(ttft_s=0.05, itl_s=0.01, tokens=8) as server:
        client = Client(server.url)
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NoReturn

from onecard.wire.events import DONE, encode_event

Misbehaviour = Literal["break-off", "garbage", "not-json", "no-finish", "goes-on", "fault-in-stream", "whole-answer"]


@dataclass(frozen=True)
class Seen:
    """One request the server got, when (time.monotonic() seconds), and whether its client stayed to the end."""

    at_s: float
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class FakeServer:
    """Listens on loopback while the context is open; `url` is its root.

    `error_every`: every nth chat request gets `error_status`; 0 never. `freeze_after`: when so many chat requests have come, everything
    stands still for `freeze_s`, once. `slots`: so many requests are answered at once, others wait; 0 is no limit.
    `health`: what GET /health answers; None is 404, as servers that are not onecard's do. `counts_words`: a prompt's tokens are its
    words and four more, else always four; `context`: a prompt and answer beyond so many are refused. `stamps`: every word is the moment
    it was written, seconds of time.monotonic(), which on one machine is the client's clock too. `freeze_at_s`: as `freeze_after`, so many
    seconds after the first chat request.
    """

    ttft_s: float = 0.0
    itl_s: float = 0.0
    tokens: int = 8
    error_every: int = 0
    error_status: int = 500
    freeze_after: int | None = None
    freeze_at_s: float | None = None
    freeze_s: float = 0.0
    slots: int = 0
    misbehaviour: Misbehaviour | None = None
    models: tuple[str, ...] = ("fake",)
    headers: dict[str, str] = field(default_factory=dict)
    health: dict[str, Any] | None = None
    seen: list[Seen] = field(default_factory=list)
    cut_off: int = 0
    counts_words: bool = False
    context: int | None = None
    stamps: bool = False
    keeps_seen: bool = True
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeServer:
        self._frozen_until = 0.0
        self._chats = 0
        self._slots = asyncio.Semaphore(self.slots or 1_000_000)
        self._connections: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection until the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (asked := await _request(reader)) is not None:
                if self.keeps_seen:
                    self.seen.append(asked)
                await self._answer(asked, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.cut_off += 1
        except asyncio.CancelledError:
            pass  # the server is closing; before Python 3.12 asyncio complains of connections that end cancelled
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, asked: Seen, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/v1/models":
            return _send(writer, 200, {"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]})
        if asked.path == "/health" and self.health is not None:
            return _send(writer, 200, self.health)
        if asked.path != "/v1/chat/completions":
            return _send(writer, 404, _fault(f"no route {asked.path}", "not_found"))
        return await self._chat(asked, writer)

    async def _chat(self, asked: Seen, writer: asyncio.StreamWriter) -> None:
        self._chats += 1
        number = self._chats
        if number == self.freeze_after:
            self._frozen_until = time.monotonic() + self.freeze_s
        if number == 1 and self.freeze_at_s is not None:
            asyncio.get_running_loop().call_later(self.freeze_at_s, self._freeze)
        async with self._slots:
            if self.error_every and number % self.error_every == 0:
                await self._pass(0)
                return _send(writer, self.error_status, _fault(f"request {number} fails on purpose", "fake_error"))
            if asked.body.get("model") not in self.models:
                return _send(writer, 404, _fault(f"no model {asked.body.get('model')!r}", "model_not_found"))
            wanted = asked.body.get("max_tokens") or self.tokens
            if self.context is not None and self._prompt_tokens(asked) + wanted > self.context:
                return _send(writer, 400, _fault(f"more than {self.context} tokens", "context_length_exceeded"))
            if asked.body.get("stream") and self.misbehaviour != "whole-answer":
                return await self._stream(asked, writer)
            await self._pass(self.ttft_s + self.itl_s * (self.tokens - 1))
            if self.misbehaviour == "break-off":
                _break_off()
            return _send(writer, 200, self._whole(asked), self.headers)

    def _freeze(self) -> None:
        self._frozen_until = time.monotonic() + self.freeze_s

    def _prompt_tokens(self, asked: Seen) -> int:
        if not self.counts_words:
            return 4
        contents = [message.get("content") for message in asked.body.get("messages", [])]
        return 4 + sum(len(content.split()) for content in contents if isinstance(content, str))

    def _word(self, number: int) -> str:
        return f"{time.monotonic():.6f} " if self.stamps else f"word{number} "

    async def _pass(self, seconds: float) -> None:
        """Waits so long, and through any freeze."""
        await asyncio.sleep(seconds)
        while (left := self._frozen_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _whole(self, asked: Seen) -> Any:
        if self.misbehaviour == "not-json":
            return "<html>not what you asked for</html>"
        message = {"role": "assistant", "content": "".join(f"word{n} " for n in range(self.tokens))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**_about(asked, "chat.completion"), "choices": [choice], "usage": self._usage(asked)}

    def _usage(self, asked: Seen) -> dict[str, int]:
        prompt = self._prompt_tokens(asked)
        return {"prompt_tokens": prompt, "completion_tokens": self.tokens, "total_tokens": self.tokens + prompt}

    async def _stream(self, asked: Seen, writer: asyncio.StreamWriter) -> None:
        lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", "transfer-encoding: chunked"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in self.headers.items())])
        for number in range(self.tokens):
            await self._pass(self.ttft_s if number == 0 else self.itl_s)
            if number == 0:
                writer.write(f"{head}\r\n\r\n".encode())
            if number == self.tokens // 2 and self._misbehave(writer):
                return
            _event(writer, _piece(asked, self._word(number), None))
            await writer.drain()
        self._finish(asked, writer)

    def _misbehave(self, writer: asyncio.StreamWriter) -> bool:
        """What goes wrong in the middle of a stream. True when it ends there."""
        if self.misbehaviour == "break-off":
            _break_off()
        if self.misbehaviour == "garbage":
            _chunk(writer, b"data: {not json at all\xff\n\n")
        if self.misbehaviour == "fault-in-stream":
            _event(writer, _fault("the engine died", "engine_failed"))
            _chunk(writer, b"")
        return self.misbehaviour == "fault-in-stream"

    def _finish(self, asked: Seen, writer: asyncio.StreamWriter) -> None:
        if self.misbehaviour != "no-finish":
            _event(writer, _piece(asked, None, "stop"))
        if self.misbehaviour == "goes-on":
            _event(writer, _piece(asked, "and on", None))
        if (asked.body.get("stream_options") or {}).get("include_usage"):
            _event(writer, {**_about(asked, "chat.completion.chunk"), "choices": [], "usage": self._usage(asked)})
        _chunk(writer, encode_event(DONE))
        _chunk(writer, b"")


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    """The next request of a connection; None when the client has left between two."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as left:
        if left.partial:
            raise
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(time.monotonic(), method, path, headers, json.loads(body) if body else {})


def _send(writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Fake", "content-type: application/json", f"content-length: {len(payload)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One chunk of a chunked body; an empty one ends it."""
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _event(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    _chunk(writer, encode_event(json.dumps(body)))


def _break_off() -> NoReturn:
    """Ends the connection in the middle, as a killed server does."""
    raise ConnectionResetError("broken off on purpose")


def _fault(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "code": code, "param": None}}


def _about(asked: Seen, kind: str) -> dict[str, Any]:
    return {"id": "fake-1", "object": kind, "created": 0, "model": asked.body.get("model")}


def _piece(asked: Seen, text: str | None, finish: str | None) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {
        **_about(asked, "chat.completion.chunk"),
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
