"""The closed loop against a real server on loopback: latency from the intended start, failures as outcomes, its own delay known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from onecard.benchmark.http_stream import StreamClient
from onecard.benchmark.load import StepRun, closed_loop, open_loop, to_request
from onecard.benchmark.prompts import Prompt, Question, draw, given_prompts
from onecard.evidence.results import RequestRecord, Step
from onecard.evidence.summaries import latency_ms, percentile, summarize
from onecard.wire.chat import ChatRequest
from onecard.wire.client import Client, TimedPiece, Who
from onecard.wire.fake_server import FakeServer

PROMPTS = {"explainer": given_prompts([f"question {n}" for n in range(5)], "five")}


def run(
    callers: int, requests: int, *, timeout_s: float = 20, **server: Any
) -> tuple[list[RequestRecord], FakeServer, StepRun]:
    async def measure() -> tuple[list[RequestRecord], FakeServer, StepRun]:
        step = StepRun()
        questions = draw(PROMPTS, ("terse",), callers, requests, 0, 1)
        async with (
            FakeServer(**{"models": ("explainer",), **server}) as fake,
            Client(fake.url, timeout_s=timeout_s) as client,
        ):
            await closed_loop(client, questions, step, max_new_tokens=12)
        return step.requests, fake, step

    return asyncio.run(measure())


def test_a_known_latency_is_measured() -> None:
    records, _, step = run(2, 8, ttft_s=0.08, itl_s=0.02, tokens=5)
    assert {record.outcome for record in records} == {"ok"}
    assert len(records) == 16
    summary = summarize(Step(callers=2, repeat=1, started_at="", requests=tuple(records)))
    # The server never answers faster than this; how much slower this machine makes it is not ours to assert tightly.
    assert 160 <= (summary.p50_ms or 0) < 160 * 3
    assert 80 <= (summary.ttft_p50_ms or 0) < 80 * 4
    assert (summary.ttft_p50_ms or 0) < (summary.p50_ms or 0)
    assert all(len(record.pieces_s) == 5 and record.new_tokens == 5 and record.prompt_tokens == 4 for record in records)
    assert step.lag_max_ms is not None and step.lag_p99_ms is not None and 0 <= step.lag_p99_ms <= step.lag_max_ms


def test_the_intended_start_is_the_moment_the_previous_answer_ended() -> None:
    records, _, _ = run(3, 4, ttft_s=0.01, tokens=3)
    for caller in range(3):
        own = sorted((r for r in records if r.caller == caller), key=lambda r: r.intended_s)
        assert own[0].intended_s == 0
        assert [later.intended_s for later in own[1:]] == [earlier.end_s for earlier in own[:-1]]
        assert all(record.sent_s >= record.intended_s for record in own)


def test_callers_are_at_work_at_the_same_time() -> None:
    alone, _, _ = run(1, 4, ttft_s=0.1, tokens=1)
    together, _, _ = run(6, 4, ttft_s=0.1, tokens=1)
    assert max(r.end_s for r in together) < 3 * max(r.end_s for r in alone)
    queued, _, _ = run(4, 2, ttft_s=0.1, tokens=1, slots=1)
    assert max(r.end_s for r in queued) >= 8 * 0.1


def test_a_frozen_server_stands_in_the_headline() -> None:
    freeze_s = 0.8
    records, _, _ = run(4, 5, tokens=2, freeze_after=9, freeze_s=freeze_s)
    # Everybody who waits meanwhile has it in the latency, whether the request left before the freeze or would have left during it.
    touched = [r for r in records if latency_ms(r) >= freeze_s * 1e3 * 0.7]
    assert len(touched) >= 4
    assert {r.caller for r in touched} == {0, 1, 2, 3}
    assert percentile([latency_ms(r) for r in records], 95) >= freeze_s * 1e3 * 0.7
    assert percentile([latency_ms(r) for r in records], 50) < freeze_s * 1e3 * 0.7


class StuckClient:
    """A client whose requests cannot leave for a while: all connections busy, say."""

    def __init__(self, stuck_s: float) -> None:
        self._stuck_s = stuck_s

    async def stream_chat(self, request: ChatRequest) -> AsyncIterator[TimedPiece]:
        time.sleep(self._stuck_s)  # not awaited: the whole generator stands still
        await asyncio.sleep(0)
        yield TimedPiece(time.monotonic(), "word", "stop", None, Who())


def test_our_own_delay_is_in_the_latency_and_is_noted() -> None:
    step = StepRun()
    questions = draw(PROMPTS, (), 3, 2, 0, 1)
    asyncio.run(closed_loop(StuckClient(0.1), questions, step, max_new_tokens=None))
    # Three callers share one standstill after the other: the last of the first round was meant to start at 0 and left 0.2 s late.
    first_round = sorted(step.requests, key=lambda record: record.end_s)[:3]
    assert max(record.sent_s - record.intended_s for record in first_round) >= 0.2
    assert max(latency_ms(record) for record in first_round) >= 300
    assert (step.lag_max_ms or 0) >= 80


def test_failures_are_outcomes_with_the_servers_words() -> None:
    records, _, _ = run(2, 6, tokens=2, error_every=3, error_status=500)
    failed = [record for record in records if record.outcome != "ok"]
    assert len(records) == 12
    assert len(failed) == 4
    assert {(r.outcome, r.http_status) for r in failed} == {("error", 500)}
    assert "fails on purpose" in (failed[0].detail or "")
    assert all(record.http_status == 200 for record in records if record.outcome == "ok")


@pytest.mark.parametrize(
    ("server", "outcome", "status"),
    [
        ({"error_every": 1, "error_status": 503}, "refused", 503),
        ({"error_every": 1, "error_status": 429}, "refused", 429),
        ({"error_every": 1, "error_status": 400}, "error", 400),
        ({"misbehaviour": "break-off"}, "broken", 200),
        ({"misbehaviour": "garbage"}, "broken", 200),
        ({"misbehaviour": "no-finish"}, "broken", 200),
        ({"misbehaviour": "whole-answer"}, "broken", None),
    ],
    ids=str,
)
def test_every_way_to_fail_has_its_name(server: dict[str, Any], outcome: str, status: int | None) -> None:
    records, _, _ = run(1, 2, tokens=4, **server)
    assert [(r.outcome, r.http_status) for r in records] == [(outcome, status)] * 2
    assert all(record.detail for record in records)


def test_what_arrived_before_a_break_is_kept() -> None:
    records, _, _ = run(1, 1, tokens=6, misbehaviour="break-off")
    assert len(records[0].pieces_s) == 3
    assert records[0].first_token_s == records[0].pieces_s[0]


def test_a_silent_server_is_a_timeout() -> None:
    records, _, _ = run(2, 1, ttft_s=30, timeout_s=0.3)
    assert [r.outcome for r in records] == ["timeout", "timeout"]
    assert all(latency_ms(r) >= 300 for r in records)


def test_what_is_sent_is_what_was_asked() -> None:
    _, fake, _ = run(1, 1, tokens=2, headers={"x-onecard-adapter": "style@v0001"})
    body = fake.seen[0].body
    assert body["model"] == "explainer"
    assert (body["preset"], body["max_tokens"], body["stream"]) == ("terse", 12, True)
    assert body["messages"][0]["content"].startswith("question ")
    bare = to_request(draw(PROMPTS, (), 1, 1, 0, 1)[0][0], None).model_dump(exclude_none=True)
    assert "preset" not in bare and "max_tokens" not in bare


def test_who_answered_is_recorded() -> None:
    records, _, _ = run(1, 2, tokens=2, headers={"x-onecard-adapter": "style@v0001"})
    assert {record.adapter for record in records} == {"style@v0001"}


def opened(
    schedule: list[float], *, deadline_ms: float | None = None, enough: Any = None, client: Any = None, **server: Any
) -> tuple[list[RequestRecord], FakeServer, StepRun]:
    async def measure() -> tuple[list[RequestRecord], FakeServer, StepRun]:
        step, question = StepRun(), draw(PROMPTS, (), 1, 1, 0, 1)[0][0]
        coming = [(at_s, replace(question, deadline_ms=deadline_ms)) for at_s in schedule]
        async with (
            FakeServer(**{"models": ("explainer",), **server}) as fake,
            StreamClient(fake.url, timeout_s=20) as own,
        ):
            ends = {"enough": enough} if enough else {}
            await open_loop(client or own, coming, step, max_new_tokens=None, **ends)
        return step.requests, fake, step

    return asyncio.run(measure())


def test_a_schedule_does_not_wait_for_answers() -> None:
    records, _, step = opened([n * 0.02 for n in range(15)], ttft_s=0.5, tokens=1)
    assert sorted(r.intended_s for r in records) == pytest.approx([n * 0.02 for n in range(15)], abs=2e-6)
    assert all(r.sent_s >= r.intended_s for r in records)
    assert max(r.end_s for r in records) < 15 * 0.5  # one after the other would take that long
    assert step.most_at_once == 15 and len({r.caller for r in records}) == 15


def test_a_freeze_is_seen_by_everybody_who_would_have_come_meanwhile() -> None:
    records, _, _ = opened([n * 0.02 for n in range(60)], tokens=1, freeze_after=10, freeze_s=0.8)
    late = [latency_ms(r) for r in records]
    assert percentile(late, 95) > 600
    assert sum(1 for ms in late if ms > 100) >= 30  # a closed loop of a few callers would have shown it a few times


def test_our_own_standstill_is_in_the_latency_of_a_schedule() -> None:
    records, _, _ = opened([0.0, 0.01, 0.02], client=StuckClient(0.2))
    by_start = sorted(records, key=lambda r: r.intended_s)
    assert latency_ms(by_start[2]) >= 380  # the third was meant to start while the first two blocked everything
    assert (by_start[2].sent_s - by_start[2].intended_s) * 1e3 >= 180


def test_a_deadline_is_sent_and_recorded() -> None:
    records, fake, _ = opened([0.0, 0.01], deadline_ms=1500.0, tokens=1)
    assert {seen.headers["x-deadline-ms"] for seen in fake.seen} == {"1500"}
    assert {r.deadline_ms for r in records} == {1500.0}


def test_a_schedule_ends_when_enough_was_seen() -> None:
    records, _, _ = opened([n * 0.01 for n in range(2000)], tokens=1, enough=lambda run: len(run.requests) >= 5)
    assert 5 <= len(records) < 400


def test_images_go_with_the_question() -> None:
    prompt = Prompt(0, "what is this?", images=("data:image/png;base64,AAAA",), max_new_tokens=7)
    body = to_request(Question("explainer", None, prompt), 99).model_dump(exclude_none=True)
    assert body["messages"][0]["content"] == (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "what is this?"},
    )
    assert body["max_tokens"] == 7
