"""The dashboard at /: one page that needs nothing but this service, and /dashboard.json, which it asks every two seconds.

The page holds no secret and is given to anybody; everything it shows needs the key that the person types into it. Its own style and
script are named in the Content-Security-Policy by their hashes, so nothing else runs in it, whatever a model says.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.serving.answer import Answer
from onecard.serving.answerers import Answerer
from onecard.serving.json_answer import json_answer
from onecard.serving.observing import Observation, observation
from onecard.serving.recent import STEP_S, WINDOW_S, Figures, Outcome, Recent, Sample, figures
from onecard.serving.service import Service
from onecard.wire.chat import Answered
from onecard.wire.health import MemoryHealth, ModelHealth

# Kinds of the plan's lines, and how the engines' parts are called that belong to them. Everything else is the last kind.
KINDS: Mapping[str, str] = {"weights": "base weights", "cache": "kv cache", "adapters": "adapter "}
REST = "rest"
BROKEN = b'data: {"error"'  # how an event begins that ends a stream with an error


@dataclass(frozen=True)
class Promise:
    """An agent's deadline in the fleet file."""

    seconds: float
    percentile: float


@dataclass(frozen=True)
class Expected:
    """What was known before the start: the card, the plan's bytes by kind of part, the agents' deadlines. Empty where nobody planned."""

    card: str | None = None
    card_bytes: int | None = None
    reserve_bytes: int = 0
    planned_bytes: Mapping[str, int] = field(default_factory=dict)
    deadlines: Mapping[str, Promise] = field(default_factory=dict)


class PartRow(Answered):
    """One kind of memory, bytes. None: not planned, or not known."""

    part: str
    planned_bytes: int | None
    real_bytes: int | None


class MemoryState(Answered):
    """`of` says what `taken_bytes` is: the card's memory at its peak, or the process on a CPU."""

    of: str
    taken_bytes: int | None
    card: str | None
    card_bytes: int | None
    reserve_bytes: int
    parts: tuple[PartRow, ...]


class AgentState(Answered):
    """One agent (or the bare base), the version that answers for it, its requests since the start and its last minutes."""

    agent: str
    model: str
    task: str
    adapter: str | None
    digest: str | None
    deadline_s: float | None
    deadline_percentile: float | None
    requests: Mapping[str, int]
    recent: Figures


class NameState(Answered):
    """A name that a request may use, and how."""

    name: str
    adapter: str | None
    presets: tuple[str, ...]
    default_preset: str
    chat: bool


class DashboardState(Answered):
    """Everything the page shows that moves. `generating` and `waiting` are requests of this moment."""

    status: str
    detail: str | None
    fleet: str
    uptime_s: float
    generating: int
    waiting: int
    window_s: float
    step_s: float
    models: tuple[ModelHealth, ...]
    memory: MemoryState
    agents: tuple[AgentState, ...]
    names: tuple[NameState, ...]
    recent: Figures


def add_dashboard(app: FastAPI, service: Service, expected: Expected) -> None:
    """Mounts the page and its JSON, and notices every request that is over. To be added before what looks at keys."""
    recent = Recent()
    app.include_router(dashboard_routes(service, expected, recent))
    app.add_middleware(Noticing, recent=recent)


def dashboard_routes(service: Service, expected: Expected, recent: Recent) -> APIRouter:
    """The two routes. They stand outside of the API's description: a page and what is its own."""
    router = APIRouter(include_in_schema=False)
    page = (resources.files("onecard.serving") / "page" / "index.html").read_text(encoding="utf-8")
    content, headers = page.encode(), page_headers(page)

    @router.get("/")
    async def dashboard() -> Response:
        return Response(content, headers=headers, media_type="text/html")

    @router.get("/dashboard.json")
    async def state() -> Response:
        begun = [isinstance(one, Answer) and one.first_s is not None for one in service.in_flight]
        told = await asyncio.to_thread(state_of, service, expected, recent, begun, time.monotonic())
        return json_answer(told.model_dump(), {"cache-control": "no-store"})

    return router


def page_headers(page: str) -> dict[str, str]:
    """Only the page's own style and script run, only this service is asked, nothing frames it, and no text becomes markup."""
    scripts, styles = (
        " ".join(map(_hash, re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL))) for tag in ("script", "style")
    )
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }


def state_of(service: Service, expected: Expected, recent: Recent, begun: list[bool], now_s: float) -> DashboardState:
    """The whole document; `begun` says of each request in flight whether it has its first token."""
    health = service.health()
    directory = service.directory
    known = {answerer.name: answerer for answerer in (*directory.agents, *directory.beside)}
    shown = [*directory.agents, *([directory.base] if directory.base is not None else [])]
    by_name = {**{one.agent: one for one in shown}, **known}
    return DashboardState(
        status=health.status,
        detail=health.detail,
        fleet=health.fleet,
        uptime_s=health.uptime_s,
        generating=sum(begun),
        waiting=len(begun) - sum(begun),
        window_s=WINDOW_S,
        step_s=STEP_S,
        models=health.models,
        memory=memory_state(health.memory, expected),
        agents=tuple(_agent_state(one, expected, recent, now_s) for one in shown),
        names=tuple(_name_state(name, one) for name, one in by_name.items()),
        recent=figures(recent.of(), now_s),
    )


def memory_state(memory: MemoryHealth, expected: Expected) -> MemoryState:
    """Planned beside real, kind by kind. What no part of an engine holds is the rest: working memory, libraries, the allocator."""
    plan = expected.planned_bytes
    rows, counted = [], 0
    for kind, beginning in KINDS.items():
        real = sum(part.bytes for part in memory.parts if part.name.startswith(beginning))
        counted += real
        rows.append(PartRow(part=kind, planned_bytes=plan.get(kind, 0) if plan else None, real_bytes=real))
    taken = memory.taken_bytes
    rest = sum(size for kind, size in plan.items() if kind not in KINDS) if plan else None
    real_rest = None if taken is None else max(taken - counted, 0)
    return MemoryState(
        of="process" if memory.gpu_bytes is None else "card",
        taken_bytes=taken,
        card=expected.card,
        card_bytes=expected.card_bytes,
        reserve_bytes=expected.reserve_bytes,
        parts=(*rows, PartRow(part=REST, planned_bytes=rest, real_bytes=real_rest)),
    )


class Noticing:
    """Times every request that somebody was asked by, and how it ended. It changes nothing on the way."""

    def __init__(self, app: ASGIApp, recent: Recent) -> None:
        self._app = app
        self._recent = recent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        status, whole, broken = 0, False, False

        async def noticing(message: Message) -> None:
            nonlocal status, whole, broken
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                broken = broken or message.get("body", b"").startswith(BROKEN)
                whole = not message.get("more_body", False)

        try:
            await self._app(scope, receive, noticing)
        finally:
            seen = observation(Request(scope))
            if seen.who is not None:
                now_s = time.monotonic()
                outcome = outcome_of(status, seen.code, whole=whole, broken=broken)
                self._recent.add(seen.who.agent, _sample(seen, outcome, now_s, now_s - began_s))


def outcome_of(status: int, code: str | None, *, whole: bool, broken: bool) -> Outcome:
    """How a request ended. An error without a code is what is sent to nobody, after the client left."""
    if status >= 500 or status == 429 or broken:
        return "failed"
    if not whole or (status >= 400 and code is None):
        return "left"
    return "refused" if status >= 400 else "answered"


def _sample(seen: Observation, outcome: Outcome, now_s: float, seconds: float) -> Sample:
    queue_s = max((answer.queue_s for answer in seen.answers), default=0.0)
    return Sample(now_s, seconds, outcome, queue_s, sum(answer.tokens for answer in seen.answers))


def _agent_state(who: Answerer, expected: Expected, recent: Recent, now_s: float) -> AgentState:
    promise = expected.deadlines.get(who.agent)
    return AgentState(
        agent=who.agent,
        model=who.model,
        task=who.task,
        adapter=who.adapter,
        digest=who.digest,
        deadline_s=None if promise is None else promise.seconds,
        deadline_percentile=None if promise is None else promise.percentile,
        requests=recent.counts(who.agent),
        recent=figures(recent.of(who.agent), now_s, None if promise is None else promise.seconds),
    )


def _name_state(name: str, who: Answerer) -> NameState:
    return NameState(
        name=name, adapter=who.adapter, presets=tuple(who.presets), default_preset=who.default_preset, chat=who.chat
    )


def _hash(inline: str) -> str:
    """A source expression that allows exactly this inline style or script."""
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    return f"'sha256-{digest}'"
