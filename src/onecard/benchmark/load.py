"""The load itself: a closed loop of callers, or an open loop that follows a schedule however long the answers take.

Closed: each caller sends its next request the moment its previous answer has ended. Open: the schedule says when. That moment is the
request's intended start, and every latency counts from it; whatever lies between it and the bytes leaving (our own delay, a connection
to open) is in the latency, not hidden before it. Nothing a server does stops a step: failures are outcomes.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from onecard.benchmark.prompts import Question
from onecard.errors import InputError, OnecardError, Refusal
from onecard.evidence.results import Outcome, RequestRecord
from onecard.evidence.summaries import percentile
from onecard.wire.chat import ChatMessage, ChatRequest, ContentPart
from onecard.wire.client import TimedPiece, with_usage

LAG_PROBE_S = 0.005
# asyncio waits in whole milliseconds, rounded up; the rest of the way to an intended start is spent looking at the clock.
CLOCK_STEP_S = 0.0011
LEAD_S = 0.02
# Beyond so many at once this machine's ports and memory are measured, not the server: later ones wait, and their lag says so.
MOST_AT_ONCE = 8000
DEADLINE = "x-deadline-ms"


def never(run: StepRun) -> bool:
    return False


class Asks(Protocol):
    """What the load needs of a client: the timed pieces of one streamed answer. Headers are given only where there are some."""

    def stream_chat(
        self, request: ChatRequest, headers: Mapping[str, str] | None = None, /
    ) -> AsyncIterator[TimedPiece]: ...


@dataclass
class StepRun:
    """What a step has seen so far; it stays usable when the step is cut short."""

    requests: list[RequestRecord] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def lag_p99_ms(self) -> float | None:
        return round(percentile(self.lags_ms, 99), 3) if self.lags_ms else None

    @property
    def lag_max_ms(self) -> float | None:
        return round(max(self.lags_ms), 3) if self.lags_ms else None


async def closed_loop(
    client: Asks,
    questions: Sequence[Iterable[Question]],
    run: StepRun,
    *,
    max_new_tokens: int | None,
    on_request: Callable[[RequestRecord], None] = lambda record: None,
    enough: Callable[[StepRun], bool] = never,
) -> None:
    """Lets caller n ask `questions[n]` one after the other, all callers at once; every finished request is added to `run`.

    Once `enough` says so, no request is sent any more; those under way are counted.
    """
    # What is known beforehand is made beforehand: not a microsecond of it shall lie between an answer and the next request.
    asked = [
        [(one, to_request(one, max_new_tokens)) for one in own]
        if isinstance(own, Sequence)
        else ((one, to_request(one, max_new_tokens)) for one in own)
        for own in questions
    ]

    async def caller(number: int, origin_s: float) -> None:
        intended_s = origin_s
        for question, request in asked[number]:
            record, intended_s = await ask(client, number, question, request, origin_s, intended_s)
            run.requests.append(record)
            on_request(record)
            if enough(run):
                return

    run.most_at_once = len(questions)
    async with _measuring(run), asyncio.TaskGroup() as group:
        origin_s = time.monotonic()
        for number in range(len(questions)):
            group.create_task(caller(number, origin_s))


async def open_loop(
    client: Asks,
    coming: Iterable[tuple[float, Question]],
    run: StepRun,
    *,
    max_new_tokens: int | None,
    on_request: Callable[[RequestRecord], None] = lambda record: None,
    enough: Callable[[StepRun], bool] = never,
) -> None:
    """Sends each question at its moment (seconds from the begin), whatever became of those before; all answers are waited for.

    The record's `caller` is the lowest number that no request under way has. Once `enough` says so nothing more is sent.
    """
    numbers = list(range(MOST_AT_ONCE - 1, -1, -1))
    freed, over = asyncio.Event(), False

    async def one(number: int, origin_s: float, intended_s: float, question: Question, request: ChatRequest) -> None:
        nonlocal over
        record, _ = await ask(client, number, question, request, origin_s, intended_s)
        numbers.append(number)
        freed.set()
        run.requests.append(record)
        on_request(record)
        over = over or enough(run)

    async with _measuring(run), asyncio.TaskGroup() as group:
        origin_s = time.monotonic() + LEAD_S
        for after_s, question in coming:
            request, intended_s = to_request(question, max_new_tokens), origin_s + after_s
            await _until(intended_s, lambda: over)
            while not numbers:
                freed.clear()
                await freed.wait()
            if over:
                break
            run.most_at_once = max(run.most_at_once, MOST_AT_ONCE - len(numbers) + 1)
            group.create_task(one(numbers.pop(), origin_s, intended_s, question, request))


async def _until(moment_s: float, over: Callable[[], bool]) -> None:
    """Returns at the moment, or when it is over; closer to the moment than asyncio's own sleep, and others run meanwhile."""
    while (left_s := moment_s - time.monotonic()) > 0 and not over():
        # A long wait is cut, so that a step which is over does not last until the next arrival of a slow schedule.
        await asyncio.sleep(min(left_s - CLOCK_STEP_S, 0.5) if left_s > CLOCK_STEP_S else 0)
    if left_s <= -CLOCK_STEP_S:
        await asyncio.sleep(0)  # late already: what arrived meanwhile is taken first


@asynccontextmanager
async def _measuring(run: StepRun) -> AsyncIterator[None]:
    """Meanwhile our own lag is watched, and the garbage collector, whose pauses would look like the server's, keeps quiet."""
    probe = asyncio.create_task(_watch_own_lag(run.lags_ms))
    try:
        with _without_collector():
            yield
    finally:
        probe.cancel()


@contextmanager
def _without_collector() -> Iterator[None]:
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def ask(
    client: Asks, caller: int, question: Question, request: ChatRequest, origin_s: float, intended_s: float
) -> tuple[RequestRecord, float]:
    """One request as a record, its times relative to `origin_s`, and the moment it ended (time.monotonic())."""
    pieces: list[TimedPiece] = []
    outcome: Outcome = "ok"
    status, detail = None, None
    sent_s = time.monotonic()
    try:
        headers = {DEADLINE: f"{question.deadline_ms:g}"} if question.deadline_ms else None
        async for piece in client.stream_chat(request, headers) if headers else client.stream_chat(request):
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
        deadline_ms=question.deadline_ms,
    )
    return record, end_s


def to_request(question: Question, max_new_tokens: int | None) -> ChatRequest:
    """The question as a streamed chat request that asks for the server's token count."""
    prompt = question.prompt
    content: str | tuple[ContentPart, ...] = prompt.text
    if prompt.images:
        images = [ContentPart.model_validate({"type": "image_url", "image_url": {"url": url}}) for url in prompt.images]
        content = (*images, ContentPart(type="text", text=prompt.text))
    longest = question.max_new_tokens or prompt.max_new_tokens or max_new_tokens
    message = ChatMessage(role="user", content=content)
    request = ChatRequest(model=question.agent, messages=(message,), preset=question.preset, max_tokens=longest)
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
