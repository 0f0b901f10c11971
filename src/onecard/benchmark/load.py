"""A closed loop of callers: each sends its next request the moment its previous answer has ended.

That moment is the request's intended start, and every latency counts from it; whatever lies between it and the bytes leaving (our own
delay, a connection to open) is in the latency, not hidden before it. Nothing a server does stops a step: failures are outcomes.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from onecard.benchmark.prompts import Question
from onecard.errors import InputError, OnecardError, Refusal
from onecard.evidence.results import Outcome, RequestRecord
from onecard.evidence.summaries import percentile
from onecard.wire.chat import ChatMessage, ChatRequest
from onecard.wire.client import TimedPiece, with_usage

LAG_PROBE_S = 0.005


class Asks(Protocol):
    """What the load needs of a client: the timed pieces of one streamed answer."""

    def stream_chat(self, request: ChatRequest) -> AsyncIterator[TimedPiece]: ...


@dataclass
class StepRun:
    """What a step has seen so far; it stays usable when the step is cut short."""

    requests: list[RequestRecord] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)

    @property
    def lag_p99_ms(self) -> float | None:
        return round(percentile(self.lags_ms, 99), 3) if self.lags_ms else None

    @property
    def lag_max_ms(self) -> float | None:
        return round(max(self.lags_ms), 3) if self.lags_ms else None


async def closed_loop(
    client: Asks,
    questions: Sequence[Sequence[Question]],
    run: StepRun,
    *,
    max_new_tokens: int | None,
    on_request: Callable[[RequestRecord], None] = lambda record: None,
) -> None:
    """Lets caller n ask `questions[n]` one after the other, all callers at once; every finished request is added to `run`."""
    requests = [[to_request(question, max_new_tokens) for question in own] for own in questions]
    origin_s = time.monotonic()

    async def caller(number: int) -> None:
        intended_s = origin_s
        for question, request in zip(questions[number], requests[number], strict=True):
            record, intended_s = await ask(client, number, question, request, origin_s, intended_s)
            run.requests.append(record)
            on_request(record)

    probe = asyncio.create_task(_watch_own_lag(run.lags_ms))
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(len(questions)):
                group.create_task(caller(number))
    finally:
        probe.cancel()


async def ask(
    client: Asks, caller: int, question: Question, request: ChatRequest, origin_s: float, intended_s: float
) -> tuple[RequestRecord, float]:
    """One request as a record, its times relative to `origin_s`, and the moment it ended (time.monotonic())."""
    pieces: list[TimedPiece] = []
    outcome: Outcome = "ok"
    status, detail = None, None
    sent_s = time.monotonic()
    try:
        async for piece in client.stream_chat(request):
            pieces.append(piece)
        end_s = pieces[-1].at_s
    except OnecardError as error:
        end_s = time.monotonic()
        outcome, status, detail = outcome_of(error), answered_status(error), _writable(error.problem)
    usage = next((piece.usage for piece in reversed(pieces) if piece.usage), None)
    arrivals = tuple(round(piece.at_s - origin_s, 6) for piece in pieces if piece.text)
    record = RequestRecord(
        caller=caller,
        prompt=question.prompt.row,
        agent=question.agent,
        preset=question.preset,
        intended_s=round(intended_s - origin_s, 6),
        sent_s=round(sent_s - origin_s, 6),
        first_token_s=arrivals[0] if arrivals else None,
        pieces_s=arrivals,
        end_s=round(end_s - origin_s, 6),
        outcome=outcome,
        prompt_tokens=usage.prompt_tokens if usage else None,
        new_tokens=usage.completion_tokens if usage else None,
        http_status=200 if pieces else status,
        adapter=pieces[0].who.adapter if pieces else None,
        detail=detail,
    )
    return record, end_s


def to_request(question: Question, max_new_tokens: int | None) -> ChatRequest:
    """The question as a streamed chat request that asks for the server's token count."""
    message = ChatMessage(role="user", content=question.prompt.text)
    request = ChatRequest(model=question.agent, messages=(message,), preset=question.preset, max_tokens=max_new_tokens)
    return with_usage(request)


def outcome_of(error: OnecardError) -> Outcome:
    """refused: the server said no, in order; error: it answered with an error; timeout; broken: no whole answer came."""
    if isinstance(error, Refusal):
        return "refused"
    if isinstance(error.__cause__, TimeoutError | httpx.TimeoutException):
        return "timeout"
    return "error" if isinstance(error, InputError) or answered_status(error) is not None else "broken"


def answered_status(error: OnecardError) -> int | None:
    """The HTTP status in the words of the wire's errors; None when no status came."""
    found = re.match(r"the server answered (\d{3})\b", error.problem)
    return int(found[1]) if found else None


def _writable(text: str) -> str:
    """A server's words as they can stand in a file: at most 300 characters, none that UTF-8 cannot hold."""
    return text[:300].encode("utf-8", "replace").decode("utf-8")


async def _watch_own_lag(lags_ms: list[float]) -> None:
    """Notes how much later than asked the event loop wakes us: the time stamps cannot be better than that."""
    while True:
        due_s = time.monotonic() + LAG_PROBE_S
        try:
            await asyncio.sleep(LAG_PROBE_S)
        finally:
            # Also when it is ended while overdue: the delay it would have seen is real. Before it is due there is nothing to note.
            late_s = time.monotonic() - due_s
            if late_s >= 0:
                lags_ms.append(late_s * 1e3)
