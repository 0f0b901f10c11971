"""A whole sweep against a real server: what it records, and that nothing measured is lost when it is cut short."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onecard.benchmark.prompts import given_prompts
from onecard.benchmark.sweep import Sweep, SweepPlan, Unwatched, parse_callers
from onecard.errors import EngineFailed, InputError, UnknownName
from onecard.evidence.results import RequestRecord, Step, read_results, write_results

Serve = Callable[..., Any]
PROMPTS = {"explainer": given_prompts([f"question {n}" for n in range(5)], "five")}


def plan(url: str, **changes: Any) -> SweepPlan:
    return SweepPlan(
        **{"url": url, "prompts": PROMPTS, "callers": (1, 2), "requests": 3, "repeats": 2, "timeout_s": 20, **changes}
    )


def test_every_step_of_a_sweep_is_recorded(serve: Serve, health: dict[str, Any], tmp_path: Path) -> None:
    headers = {"x-onecard-adapter": "style@v0001"}
    with serve(tokens=3, headers=headers, health=health) as server:
        result = Sweep(plan(server.url, presets=("terse",), command="onecard bench sweep x")).run()
    assert [(s.callers, s.repeat, len(s.requests), s.complete) for s in result.steps] == [
        *((1, 1, 3, True), (1, 2, 3, True), (2, 1, 6, True), (2, 2, 6, True)),
    ]
    assert [step.warmup_requests for step in result.steps] == [1, 0, 2, 0]
    assert result.complete and result.stopped_because is None
    what, how = result.what, result.how
    assert (what.model, what.quantization, what.engine, what.engine_version) == ("embedded:mini", "nf4", "local", "1.2")
    assert (what.adapters, what.agents, what.presets) == (("style@v0001",), ("explainer",), ("terse",))
    assert (what.fleet, what.fleet_digest) == ("demo", "ab" * 32)
    assert result.where.server == "this machine" and result.where.card is None
    assert [(m.moment, m.kind, m.bytes) for m in result.steps[0].memory] == [
        *(("before", "process", 3 * 2**30), ("after", "process", 3 * 2**30)),
    ]
    assert (how.prompts, how.prompts_rows, how.command) == ("five", 5, "onecard bench sweep x")
    write_results(tmp_path / "run.json", result)
    assert read_results(tmp_path / "run.json") == result


def test_uncounted_requests_are_the_check_and_the_warm_up(serve: Serve) -> None:
    with serve(tokens=1) as server:
        result = Sweep(plan(server.url, callers=(2,), repeats=1, warmup_requests=2)).run()
        chats = [seen for seen in server.seen if seen.path == "/v1/chat/completions"]
    assert len(result.steps[0].requests) == 6
    assert len(chats) == 6 + 2 * 2 + 1


def test_a_server_that_is_not_onecard_says_less_and_is_measured_all_the_same(serve: Serve) -> None:
    with serve(tokens=2) as server:
        result = Sweep(plan(server.url, callers=(1,), repeats=1)).run()
    assert (result.what.model, result.what.engine, result.what.adapters, result.steps[0].memory) == (None, None, (), ())
    assert all(request.outcome == "ok" for request in result.steps[0].requests)


def test_the_memory_of_a_card_is_told_from_a_process(serve: Serve, health: dict[str, Any]) -> None:
    on_a_card = {**health, "memory": {"process_bytes": 5, "gpu_bytes": 2**33}}
    with serve(tokens=1, health=on_a_card) as server:
        result = Sweep(plan(server.url, callers=(1,), repeats=1)).run()
    assert {(m.kind, m.bytes) for m in result.steps[0].memory} == {("gpu", 2**33)}


def test_server_errors_do_not_stop_it(serve: Serve) -> None:
    with serve(tokens=1, error_every=4) as server:
        result = Sweep(plan(server.url)).run()
    outcomes = [request.outcome for step in result.steps for request in step.requests]
    assert result.complete
    assert len(outcomes) == 18
    assert 0 < outcomes.count("error") < 18


def test_a_server_that_only_fails_ends_it_with_what_was_seen(serve: Serve) -> None:
    with serve(tokens=1, error_every=1, error_status=500) as server:
        result = Sweep(plan(server.url)).run()
    assert not result.complete
    assert "fails on purpose" in (result.stopped_because or "")
    assert [len(step.requests) for step in result.steps] == [3]


def test_nothing_at_the_url_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineFailed, match="nothing answers") as caught:
        Sweep(plan(url)).run()
    assert url in str(caught.value.where)


def test_a_server_that_is_silent_is_said_after_one_timeout(serve: Serve) -> None:
    with serve(ttft_s=30) as server, pytest.raises(EngineFailed, match=r"no answer within 0\.3 s"):
        Sweep(plan(server.url, timeout_s=0.3)).run()
    assert sum(seen.path == "/v1/chat/completions" for seen in server.seen) == 1


def test_an_unknown_model_is_said_with_the_known_ones(serve: Serve) -> None:
    with serve(tokens=1, models=("explainer", "quizmaster")) as server:
        asked = {"explaner": PROMPTS["explainer"]}
        with pytest.raises(UnknownName, match="explaner") as caught:
            Sweep(plan(server.url, prompts=asked)).run()
    assert caught.value.allowed == "explainer, quizmaster"


def test_a_refused_first_request_is_said(serve: Serve) -> None:
    with serve(tokens=1, error_every=1, error_status=401) as server, pytest.raises(InputError, match="401"):
        Sweep(plan(server.url)).run()


class InterruptAfter(Unwatched):
    """Presses Ctrl-C when so many requests have ended."""

    def __init__(self, requests: int) -> None:
        self.left = requests

    def request_ended(self, record: RequestRecord) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_what_was_measured(serve: Serve, tmp_path: Path) -> None:
    with serve(tokens=2, ttft_s=0.02) as server:
        result = Sweep(plan(server.url, callers=(1, 2), requests=20, repeats=1), InterruptAfter(24)).run()
    assert not result.complete
    assert result.stopped_because == "interrupted"
    assert [(step.callers, step.complete) for step in result.steps] == [(1, True), (2, False)]
    assert 24 <= sum(len(step.requests) for step in result.steps) < 60
    assert all(request.outcome == "ok" for step in result.steps for request in step.requests)
    write_results(tmp_path / "partial.json", result)
    assert read_results(tmp_path / "partial.json") == result


def test_ctrl_c_before_anything_was_measured_is_just_ctrl_c(serve: Serve) -> None:
    class Immediately(Unwatched):
        def step_started(self, callers: int, repeat: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with serve(tokens=2, ttft_s=0.05) as server, pytest.raises(KeyboardInterrupt):
        Sweep(plan(server.url), Immediately()).run()


def test_the_watcher_is_told_everything(serve: Serve) -> None:
    told: list[Any] = []

    class Watcher(Unwatched):
        def step_started(self, callers: int, repeat: int) -> None:
            told.append((callers, repeat))

        def step_ended(self, step: Step) -> None:
            told.append(len(step.requests))

    with serve(tokens=1) as server:
        Sweep(plan(server.url), Watcher()).run()
    assert told == [(1, 1), 3, (1, 2), 3, (2, 1), 6, (2, 2), 6]


def test_a_key_is_sent_and_never_recorded(serve: Serve) -> None:
    with serve(tokens=1) as server:
        secret = plan(server.url, callers=(1,), repeats=1, api_key="sk-secret")
        result = Sweep(secret).run()
        assert server.seen[0].headers["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in result.model_dump_json()
    assert "sk-secret" not in repr(secret)


@pytest.mark.parametrize(
    ("text", "callers"), [("1..6", (1, 2, 3, 4, 5, 6)), ("4", (4,)), ("8,1, 2", (1, 2, 8)), ("1..2,2..3", (1, 2, 3))]
)
def test_callers_as_people_write_them(text: str, callers: tuple[int, ...]) -> None:
    assert parse_callers(text) == callers


@pytest.mark.parametrize(
    "text", ["", "0", "0..2", "3..1", "1..", "a", "1...3", "-1", "1..100000000", "1,,2", "\u0661.."]
)
def test_other_callers_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="number of callers"):
        parse_callers(text)


def test_a_plan_knows_how_much_it_asks() -> None:
    assert plan("http://x").total_requests == (1 + 2) * 3 * 2


def test_it_can_be_run_inside_a_loop_of_ones_own(serve: Serve) -> None:
    with serve(tokens=1) as server:
        sweep = Sweep(plan(server.url, callers=(1,), repeats=1))
        asyncio.run(sweep.measure())
    assert sweep.result().complete
