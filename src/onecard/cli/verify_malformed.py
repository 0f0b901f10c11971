"""Requests that are wrong on purpose, and what a clear refusal of each looks like. Pure: a table and its judge, no network.

Every one must get a 4xx with a body {"error": {"message", "type", "code", "param"}} that says something; a 5xx or a 200 is a failure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from onecard.cli.verify_records import Check, judged

HUGE_BYTES = 5 * 2**20  # over the service's limit of 4 MiB for a body
KEYS = {"message", "type", "code", "param"}
JSON = {"content-type": "application/json"}
SHOWN = 90
AFTER = "after all of them"  # the last check: the service is still well


@dataclass(frozen=True)
class Malformed:
    """One wrong request and the statuses that answer it clearly."""

    name: str
    method: str
    path: str
    statuses: tuple[int, ...]
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


@dataclass(frozen=True)
class Answered:
    """What came back; `status` None: nothing did, and `text` says why."""

    status: int | None
    text: str


def requests(agent: str, preset: str, context: int) -> tuple[Malformed, ...]:
    """Every wrong request, made for this agent, one of its presets, and a context of so many tokens."""
    chat, short = "/v1/chat/completions", "/generate"
    turns = [{"role": "user", "content": "What is a stack?"}]
    far = "a b c d " * (context + 1)  # at least four tokens a piece, so well beyond the context

    def asking(name: str, path: str, statuses: tuple[int, ...], value: Any) -> Malformed:
        return Malformed(name, "POST", path, statuses, json.dumps(value).encode())

    return (
        Malformed("bad JSON", "POST", chat, (400,), b'{"model": '),
        Malformed("not UTF-8", "POST", short, (400,), b'{"prompt": "\xff\xfe"}'),
        asking("JSON that is no object", short, (400,), [1, 2]),
        asking("unknown model", chat, (404,), {"model": "nobody-has-this-name", "messages": turns}),
        asking("missing model", chat, (400,), {"messages": turns}),
        asking("unknown style", short, (400,), {"prompt": "What is a stack?", "style": "no-such-style", "agent": agent}),
        asking("unknown agent", short, (404,), {"prompt": "What is a stack?", "agent": "nobody-has-this-name"}),
        asking("missing prompt", short, (400,), {"agent": agent, "style": preset}),
        asking("empty prompt", short, (400,), {"prompt": "", "agent": agent}),
        asking("no messages", chat, (400,), {"model": agent, "messages": []}),
        asking("too long", short, (400, 413), {"prompt": far[: HUGE_BYTES // 2], "agent": agent, "style": preset}),
        asking("text for a number", chat, (400,), {"model": agent, "messages": turns, "max_tokens": "ten"}),
        asking("a number for text", short, (400,), {"prompt": 7, "agent": agent}),
        asking("a number out of range", chat, (400,), {"model": agent, "messages": turns, "temperature": -1}),
        asking("unknown field", short, (400,), {"prompt": "What is a stack?", "agent": agent, "stile": preset}),
        Malformed("wrong method", "GET", short, (405,)),
        Malformed("wrong path", "POST", "/no/such/route", (404,), b"{}"),
        Malformed("wrong content type", "POST", short, (415,), b"prompt=x", {"content-type": "text/plain"}),
        Malformed("huge body", "POST", short, (413,), b'{"prompt": "' + b"x" * HUGE_BYTES + b'"}'),
    )  # fmt: skip


def check_of(asked: Malformed, answered: Answered) -> Check:
    """One wrong request as a check."""
    problem = problem_of(asked, answered)
    expected = " or ".join(map(str, asked.statuses))
    return judged(
        "requests", asked.name, f"{asked.method} {asked.path}", problem is None, problem or _said(answered),
        f"{expected} with an error that says why", f"{len(asked.body):,} bytes sent: {_start(asked.body)}",
        "this is a defect of the service: keep the request, and say so",
    )  # fmt: skip


def problem_of(asked: Malformed, answered: Answered) -> str | None:
    """What is wrong with a refusal; None when it is a clear one."""
    if answered.status is None:
        return f"no answer: {answered.text}"
    if answered.status not in asked.statuses:
        return f"answered {answered.status}: {answered.text[:SHOWN]}"
    try:
        error = json.loads(answered.text)["error"]
    except (ValueError, KeyError, TypeError):
        return f"{answered.status} without an error in the documented shape: {answered.text[:SHOWN]}"
    if not isinstance(error, dict) or set(error) != KEYS:
        return f"{answered.status}, and the error is not message, type, code, param: {json.dumps(error)[:SHOWN]}"
    if not (isinstance(error["message"], str) and error["message"].strip()):
        return f"{answered.status} without a message"
    if "Traceback" in error["message"]:
        return f"{answered.status} with a stack trace"
    return None


def _said(answered: Answered) -> str:
    message = str(json.loads(answered.text)["error"]["message"])
    return f"{answered.status}: {message if len(message) <= SHOWN else message[: SHOWN - 3] + '...'}"


def _start(body: bytes) -> str:
    text = body[:60].decode("ascii", "replace").replace("\ufffd", "?")
    return text + ("..." if len(body) > 60 else "") if body else "no body"
