"""A short measured load on each agent with a deadline, beside what the plan says of that very load."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from onecard.cli.verify_records import Check, judged, not_asked, on_a_busy_machine, unseen
from onecard.evidence.summaries import needed_for, percentile

if TYPE_CHECKING:
    from onecard.benchmark.prompts import Prompts
    from onecard.cli.verify_asking import Asking
    from onecard.evidence.results import RequestRecord, Step
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.schema import AgentSpec, Deadline
    from onecard.planner.plan import Plan
    from onecard.planner.speed import Seconds

SHORT_SHARE = 0.8  # answers with fewer tokens than this share of the deadline's say little about it
WHAT = "deadline kept under load"


def deadline_check(asking: Asking, agent: str, plan: Plan | None, other_card: str | None) -> Check:
    """The deadline's percentile over a closed loop of the model's callers; the plan's range for the same load stands beside it."""
    loaded, spec = asking.loaded, asking.loaded.agent(agent)
    if spec.deadline is None:
        return not_asked("deadline", agent, WHAT, "the fleet gives it none")
    needed = f"p{spec.deadline.percentile:g} at most {spec.deadline.seconds:g} s"
    if other_card is not None:
        return unseen("deadline", agent, WHAT, other_card, needed)
    if asking.wanted.quick:
        return unseen("deadline", agent, WHAT, "--quick leaves the load out", needed, f"onecard verify {loaded.file}")
    callers = loaded.fleet.models[spec.model].concurrency
    least = needed_for(spec.deadline.percentile)
    bench = f"onecard bench sweep {loaded.file} --model {agent} --callers {callers}"
    if max(least, callers) > asking.wanted.requests:
        reason = f"p{spec.deadline.percentile:g} needs {least} answers, a check sends at most {asking.wanted.requests}"
        return unseen("deadline", agent, WHAT, reason, needed, f"{bench} --requests {math.ceil(least / callers)}")
    step, preset = _measured(asking, agent, spec, callers, math.ceil(least / callers))
    planned = _planned(loaded, agent, plan)
    check = judge(agent, spec.deadline, step.requests, f"{callers} callers, preset {preset}", planned, bench)
    return on_a_busy_machine(check, asking.neighbours)


def judge(
    agent: str, deadline: Deadline, requests: tuple[RequestRecord, ...], load: str, planned: Seconds | None, bench: str
) -> Check:
    """Pure: the requests of one step held against a deadline. A request that failed is one that was not in time."""
    needed = f"p{deadline.percentile:g} at most {deadline.seconds:g} s"
    answered = [one for one in requests if one.outcome == "ok"]
    failed = len(requests) - len(answered)
    times = [one.end_s - one.intended_s for one in answered] + [math.inf] * failed
    seen_s = percentile(times, deadline.percentile) if not failed else _with_failures(times, deadline.percentile)
    seen = f"p{deadline.percentile:g} {seen_s:.2f} s" if math.isfinite(seen_s) else "too many requests failed"
    seen += f", {failed} of {len(requests)} failed" if failed else ""
    if planned is not None:
        seen += f"; planned {planned.expected:.2g} s ({planned.low:.2g} to {planned.high:.2g})"
        if math.isfinite(seen_s) and not planned.low <= seen_s <= planned.high:
            seen += ", outside the plan's range"
    return judged(
        "deadline", agent, WHAT, seen_s <= deadline.seconds, seen, needed,
        f"{len(requests)} requests, {load}, timed from the intended start{_shape(answered, deadline)}",
        f"onecard plan names what is faster; measure it with {bench}",
    )  # fmt: skip


def _with_failures(times: list[float], percent: float) -> float:
    """The next observation above the percentile: between an answer and a failure nothing can be interpolated."""
    return sorted(times)[math.ceil((len(times) - 1) * percent / 100)]


def _shape(answered: list[RequestRecord], deadline: Deadline) -> str:
    """How long the answers really were, and whether that is short for what the deadline speaks of."""
    counts = [one.new_tokens for one in answered if one.new_tokens is not None]
    if not counts:
        return ""
    mean = sum(counts) / len(counts)
    short = f", shorter than the deadline's {deadline.new_tokens}" if mean < SHORT_SHARE * deadline.new_tokens else ""
    return f"; {mean:.0f} tokens an answer{short}"


def _measured(asking: Asking, agent: str, spec: AgentSpec, callers: int, requests: int) -> tuple[Step, str]:
    """One step of the bench: the preset with the longest answers, cut where the deadline's answers end."""
    from onecard.benchmark.sweep import Sweep, SweepPlan

    assert spec.deadline is not None
    preset = max(spec.presets, key=lambda name: spec.presets[name].max_new_tokens)
    sweep = SweepPlan(
        url=asking.url,
        prompts={agent: _prompts(asking.loaded, spec)},
        presets=(preset,),
        callers=(callers,),
        requests=requests,
        repeats=1,
        max_new_tokens=min(spec.deadline.new_tokens, spec.presets[preset].max_new_tokens),
        fleet=asking.loaded.fleet.name,
        fleet_digest=asking.loaded.digest,
    )
    result = Sweep(sweep).run()
    if result.stopped_because == "interrupted":
        raise KeyboardInterrupt
    return result.steps[-1], preset


def _prompts(loaded: LoadedFleet, spec: AgentSpec) -> Prompts:
    """Held-out prompts where there are some, else the shipped questions."""
    from onecard.benchmark.prompts import read_prompts, shipped_prompts
    from onecard.errors import OnecardError

    try:
        return read_prompts(loaded.resolve(spec.suite.data)) if spec.suite else shipped_prompts()
    except OnecardError:
        return shipped_prompts()


def _planned(loaded: LoadedFleet, agent: str, plan: Plan | None) -> Seconds | None:
    """What the planner says of all callers asking this agent; None without a plan or a time in it."""
    from onecard.cli.plan import shapes_of
    from onecard.errors import OnecardError
    from onecard.planner.requests import agent_speed
    from onecard.planner.speed import is_cpu

    if plan is None:
        return None
    try:
        shapes = shapes_of(loaded, offline=True)
        return agent_speed(loaded.fleet, agent, shapes, plan.speed, on_cpu=is_cpu(plan.card), parts={agent: 1.0}).busy
    except OnecardError:
        return None


def deadline_checks(
    asking: Asking, plan: Plan | None, other_card: str | None, agents: tuple[str, ...]
) -> Iterator[Check]:
    """One check an agent; an agent whose load could not be sent is said so."""
    from onecard.errors import EngineFailed, OnecardError

    for agent in agents:
        try:
            yield deadline_check(asking, agent, plan, other_card)
        except EngineFailed as error:
            next_step = error.next_step or f"onecard serve {asking.loaded.file} --check"
            yield judged(
                "deadline", agent, WHAT, False, str(error), "an answer to every request", asking.url, next_step
            )
        except OnecardError as error:
            yield unseen("deadline", agent, WHAT, str(error), "", error.next_step or "")
