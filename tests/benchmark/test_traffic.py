"""Traffic against a real server: shares, lengths, schedules, stop rules, and a measurement that goes on where it was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onecard.benchmark.arrivals import parse_arrivals
from onecard.benchmark.campaign import UNDER_WAY, resumable
from onecard.benchmark.lengths import parse_lengths
from onecard.benchmark.load import StepRun
from onecard.benchmark.prompts import given_prompts
from onecard.benchmark.sweep import Sweep, SweepPlan
from onecard.benchmark.traffic import StopRule, Traffic, TrafficPlan
from onecard.errors import InputError, ResultError
from onecard.evidence.results import RequestRecord, ResultFile, read_results, write_results

Serve = Callable[..., Any]
PROMPTS = {name: given_prompts([f"{name} {n}" for n in range(4)], name) for name in ("explainer", "quizmaster")}


def plan(url: str, **changes: Any) -> TrafficPlan:
    given = {"url": url, "prompts": PROMPTS, "shares": {"explainer": 0.75, "quizmaster": 0.25}, "callers": 3}
    return TrafficPlan(**{**given, "requests": 60, "timeout_s": 20, **changes})


def bodies(server: Any) -> list[dict[str, Any]]:
    return [seen.body for seen in server.seen if seen.path == "/v1/chat/completions"]


def test_agents_get_their_shares_whoever_calls(serve: Serve) -> None:
    with serve(tokens=1, models=tuple(PROMPTS)) as server:
        result = Traffic(plan(server.url), "mix").run()
        alone = Traffic(plan(server.url, callers=1), "mix").run()
    asked = Counter(request.agent for request in result.steps[0].requests)
    assert sum(asked.values()) == 60 and 35 <= asked["explainer"] <= 54
    assert asked == Counter(request.agent for request in alone.steps[0].requests)
    assert result.complete and result.kind == "mix" and result.how.shares["explainer"] == 0.75


def test_lengths_are_what_the_server_counts(serve: Serve) -> None:
    lengths = {"prompt_lengths": parse_lengths("uniform:30..60", "x"), "answer_lengths": parse_lengths("7", "x")}
    with serve(tokens=1, models=tuple(PROMPTS), counts_words=True) as server:
        result = Traffic(plan(server.url, requests=20, **lengths), "mix").run()
        assert {body["max_tokens"] for body in bodies(server)[-20:]} == {7}
    counts = [request.prompt_tokens or 0 for request in result.steps[0].requests]
    assert min(counts) >= 30 and max(counts) <= 60 and len(set(counts)) > 5
    assert result.how.lengths == {"prompt": "uniform:30..60", "answer": "7"}
    with serve(tokens=1, models=tuple(PROMPTS)) as server, pytest.raises(InputError, match="4 and 4 tokens"):
        Traffic(plan(server.url, **lengths), "mix").run()


def test_a_trace_says_when_who_and_how_long(serve: Serve, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"at_s": 0, "agent": "quizmaster", "prompt_tokens": 44, "new_tokens": 3}\n{"at_s": 0.1, "agent": "explainer"}\n'
    )
    with serve(tokens=1, models=tuple(PROMPTS), counts_words=True) as server:
        arrivals = parse_arrivals(f"trace:{trace}")
        result = Traffic(plan(server.url, callers=None, arrivals=arrivals), "mix").run()
        first = bodies(server)[-2]
    requests = sorted(result.steps[0].requests, key=lambda request: request.intended_s)
    assert [(request.agent, request.intended_s) for request in requests] == [("quizmaster", 0.0), ("explainer", 0.1)]
    assert requests[0].prompt_tokens == 44 and first["max_tokens"] == 3
    assert result.how.load == "open" and result.steps[0].rate_rps == pytest.approx(10)


def test_a_schedule_by_time_sends_what_falls_into_it(serve: Serve) -> None:
    with serve(tokens=1, models=tuple(PROMPTS)) as server:
        arrivals = parse_arrivals("constant:50")
        result = Traffic(
            plan(server.url, callers=None, arrivals=arrivals, seconds=0.4, deadline_ms=900), "steady"
        ).run()
    assert len(result.steps[0].requests) == 20
    assert {request.deadline_ms for request in result.steps[0].requests} == {900}


def test_agents_have_their_own_deadlines(serve: Serve) -> None:
    with serve(tokens=1, models=tuple(PROMPTS)) as server:
        result = Traffic(plan(server.url, deadlines={"quizmaster": 500.0}), "mix").run()
    assert {(r.agent, r.deadline_ms) for r in result.steps[0].requests} == {("explainer", None), ("quizmaster", 500.0)}


def made(latencies_s: list[float]) -> StepRun:
    requests = [
        RequestRecord(caller=0, prompt=0, agent="a", intended_s=n, sent_s=n, end_s=n + seconds, outcome="ok")
        for n, seconds in enumerate(latencies_s)
    ]
    return StepRun(requests)


def test_a_step_ends_when_the_interval_is_narrow_and_not_before() -> None:
    even = made([0.1 + 0.01 * (n * 37 % 10) for n in range(400)])
    assert StopRule(1000, None, 0.2, 50)(even)
    assert not StopRule(1000, None, 0.2, 99)(StepRun(even.requests[:300]))  # 368 would be needed for p99
    assert not StopRule(1000, None, 0.2, 50)(made([0.1 + n * 0.01 for n in range(400)]))  # it never settled
    assert StopRule(400, None, None, 50)(even)


def interrupted(result: ResultFile, steps: int) -> ResultFile:
    return result.model_copy(update={"steps": result.steps[:steps], "complete": False, "stopped_because": UNDER_WAY})


def test_an_interrupted_sweep_goes_on_where_it_was(serve: Serve, tmp_path: Path) -> None:
    kept: list[ResultFile] = []
    with serve(tokens=1) as server:
        asked = SweepPlan(
            url=server.url, prompts={"explainer": PROMPTS["explainer"]}, callers=(1, 2), requests=3, repeats=2
        )
        whole = Sweep(asked, keep=kept.append).run()
        write_results(tmp_path / "cut.json", kept[2])
        done = resumable(read_results(tmp_path / "cut.json"), "sweep", asked, asked.as_how(), "cut.json")
        before = len(bodies(server))
        resumed = Sweep(asked, done=done).run()
        sent = len(bodies(server)) - before
    assert [(len(one.steps), one.complete, one.stopped_because) for one in kept] == [
        (n, False, UNDER_WAY) for n in (1, 2, 3, 4)
    ]
    assert whole.complete and resumed.complete and resumed.started_at == whole.started_at
    assert [(s.callers, s.repeat) for s in resumed.steps] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert resumed.steps[:3] == whole.steps[:3]
    assert sent == 1 + 2 + 6  # the check, the warm-up of two callers, the step that was missing


def test_a_step_that_was_cut_is_measured_again(serve: Serve) -> None:
    with serve(tokens=1, models=tuple(PROMPTS)) as server:
        asked = plan(server.url, requests=8, repeats=2)
        whole = Traffic(asked, "mix").run()
        cut = whole.model_copy(
            update={"steps": (whole.steps[0], whole.steps[1].model_copy(update={"complete": False}))}
        )
        resumed = Traffic(asked, "mix", done=cut).run()
    assert resumed.steps[0] == whole.steps[0] and resumed.steps[1] != whole.steps[1] and len(resumed.steps) == 2


def test_another_load_is_not_resumed(serve: Serve) -> None:
    with serve(tokens=1, models=tuple(PROMPTS)) as server:
        asked = plan(server.url, requests=4)
        done = interrupted(Traffic(asked, "mix").run(), 0)
    for changed, said in (
        (replace(asked, requests=5), "requests was 4, now 5"),
        (replace(asked, prompts={"explainer": PROMPTS["explainer"]}, shares={"explainer": 1.0}), "other agents"),
    ):
        with pytest.raises(ResultError, match=said):
            resumable(done, "mix", changed, changed.as_how(), "a.json")
    with pytest.raises(ResultError, match="a mix cannot be resumed as a steady"):
        resumable(done, "steady", asked, asked.as_how(), "a.json")
