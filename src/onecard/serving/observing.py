"""Every request once: counted when its last byte is sent, and told in one line of JSON when there is a log.

A line says who asked whom, what came of it and how long it took. It has no text of a prompt unless prompts are logged on purpose.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.serving.answer import Answer
from onecard.serving.answerers import Answerer
from onecard.serving.choices import Choices
from onecard.serving.metrics import Metrics
from onecard.serving.ranking import Ranking

STATE = "onecard"  # where an observation lies in a request's scope


@dataclass
class Observation:
    """What is known of a request so far. `route` is a pattern of ours, never the path that was sent."""

    method: str
    id: str = field(default_factory=lambda: uuid4().hex)
    route: str = "unknown"
    status: int = 499  # as nginx has it: the client left before anything was sent
    code: str | None = None
    key: str | None = None
    who: Answerer | None = None
    answers: tuple[Answer, ...] = ()
    asked: Any = None  # the request's record, told only when prompts are logged


class RequestLog:
    """One line of JSON for each request, to a text stream. Safe from any thread."""

    def __init__(self, stream: TextIO, *, prompts: bool = False) -> None:
        self._stream = stream
        self._prompts = prompts
        self._lock = threading.Lock()

    def write(self, seen: Observation, seconds: float) -> None:
        """A line that cannot be written (a full disk, a closed pipe) is lost: the service does not stop for its log."""
        line = json.dumps(self.record(seen, seconds), default=str)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return

    def tell(self, event: str, **facts: Any) -> None:
        """A line about the service itself, such as a reload."""
        line = json.dumps({"time": _now(), "event": event, **facts}, default=str)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return

    def record(self, seen: Observation, seconds: float) -> dict[str, Any]:
        """The line's content. Times in milliseconds."""
        who = seen.who
        first_s = min((a.first_s for a in seen.answers if a.first_s is not None), default=None)
        told: dict[str, Any] = {
            "time": _now(),
            "event": "request",
            "id": seen.id,
            "key": seen.key,
            "method": seen.method[:20],
            "route": seen.route,
            "status": seen.status,
            "code": seen.code,
            "agent": who.agent if who else None,
            "adapter": who.adapter if who else None,
            "digest": who.digest if who else None,
            "prompt_tokens": sum(answer.prompt_tokens for answer in seen.answers),
            "tokens": sum(answer.tokens for answer in seen.answers),
            "queue_ms": round(max((answer.queue_s for answer in seen.answers), default=0.0) * 1000, 1),
            "first_token_ms": None if first_s is None else round(first_s * 1000, 1),
            "ms": round(seconds * 1000, 1),
        }
        if self._prompts and seen.asked is not None:
            told["asked"] = seen.asked.model_dump(mode="json", exclude_none=True)
        return told


class Observing:
    """The outermost layer. It adds `x-request-id` to every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: RequestLog | None) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = Observation(scope["method"])
        scope.setdefault("state", {})[STATE] = seen
        began_s = time.monotonic()

        async def noticing(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", seen.id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, noticing)
        finally:
            seconds = time.monotonic() - began_s
            seen.route = _route_of(scope)
            self._metrics.answered(seen.who, seen.route, seen.status, seen.code, seconds)
            if self._log is not None:
                self._log.write(seen, seconds)


def observation(request: Request) -> Observation:
    """What is known of this request; a new, unseen one outside of the service's own layers."""
    found = request.scope.get("state", {}).get(STATE)
    return found if isinstance(found, Observation) else Observation(request.method)


def observe(request: Request, asked: Any, work: Choices | Answer | Ranking) -> None:
    """Remembers who is asked, for the counts and the log."""
    seen = observation(request)
    seen.who, seen.asked = work.who, asked
    seen.answers = work.answers if isinstance(work, Choices) else (work,) if isinstance(work, Answer) else ()


def _route_of(scope: Scope) -> str:
    """The pattern of the route that answered, such as /v1/models/{name}."""
    route = scope.get("route")
    return str(getattr(route, "path", "unknown"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
