"""`onecard bench mix` and `onecard bench steady`: traffic over agents, and a long run with its warm-up told from its steady state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from onecard.cli.bench_files import Kept, check_folder, run_kept
from onecard.cli.bench_options import LOAD, MODEL, SERVICE, TARGET, TRAFFIC, command_of, options
from onecard.cli.bench_output import (
    conclude,
    kept_record,
    part_record,
    parts_table,
    show_files,
    show_invalid,
)
from onecard.cli.bench_service import Service, Wanted, service_of

if TYPE_CHECKING:
    from onecard.benchmark.breakdown import Part
    from onecard.benchmark.campaign import Kind
    from onecard.benchmark.traffic import TrafficPlan
    from onecard.evidence.results import Step

CALLERS = 4


@click.command(short_help="Traffic over several agents and adapters, with skew.")
@options(
    *SERVICE,
    *TRAFFIC,
    click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Repeats of the whole mix."),
    click.option(
        "--requests", type=click.IntRange(1), default=400, show_default=True, help="Requests in all, of each repeat."
    ),
    *LOAD,
    MODEL,
    TARGET,
)
@click.pass_context
def mix(click_context: click.Context, /, **wishes: Any) -> int:
    """Traffic over agents (an agent is an adapter): each agent's latency, time to first token and share in time.

    Without --model every agent of the service is asked. Exit code 1 when a deadline is not kept.

    \b
    Example:
      onecard bench mix examples/demo.yaml --mix zipf --callers 6
      onecard bench mix http://127.0.0.1:8700 --arrivals poisson:2 --mix explainer=3,quizmaster=1 --deadline 4
    """
    kept, percent = _measured(click_context, "mix", wishes, every_agent=True)
    from onecard.benchmark.breakdown import parts_by_agent

    parts = parts_by_agent(kept.result.steps)
    _show(kept, parts, "agent", [], wishes["as_json"], {"agents": [part_record(part) for part in parts]})
    return conclude(kept, _code(parts, percent))


@click.command(short_help="A long run: warm-up apart from steady state, drift, tail latency.")
@options(
    *SERVICE,
    *TRAFFIC,
    click.option(
        "--minutes", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="How long."
    ),
    click.option(
        "--requests", type=click.IntRange(1), default=100_000, show_default=True, help="At the most so many requests."
    ),
    *LOAD,
    MODEL,
    TARGET,
)
@click.pass_context
def steady(click_context: click.Context, /, **wishes: Any) -> int:
    """A long run. Its warm-up is found (MSER-5), not assumed; what follows is summed up, and tested for a drift.

    Exit code 1 when a deadline is not kept in the steady part, or when there is none.

    \b
    Example:
      onecard bench steady http://127.0.0.1:8700 --model explainer --callers 4 --minutes 30
      onecard bench steady http://127.0.0.1:8700 --model explainer --arrivals poisson:2 --until 0.1
    """
    kept, percent = _measured(click_context, "steady", wishes, every_agent=False)
    from onecard.benchmark.long_run import course_of

    course = course_of(kept.result.steps[-1])
    record = {
        "warm_up": {"requests": course.warm_up.cut, "settled": course.warm_up.settled},
        "parts": [part_record(part) for part in course.parts],
        "drift": {name: found and {"change": found.change, "p_value": found.p_value} for name, found in course.drifts},
        "windows": [window.__dict__ for window in course.windows],
    }
    _show(kept, course.parts, "part", course.sentences, wishes["as_json"], record)
    unsettled = course.warm_up.settled is False
    return conclude(kept, 1 if unsettled else _code(course.parts[-1:], percent))


def _measured(
    click_context: click.Context, kind: Kind, wishes: dict[str, Any], *, every_agent: bool
) -> tuple[Kept, float]:
    from onecard.benchmark.traffic import Traffic
    from onecard.cli.bench_progress import StepBar

    check_folder(wishes["out"])
    check_load(wishes)
    wanted = Wanted(
        wishes["target"], wishes["models"], wishes["presets"], wishes["prompts"], wishes["api_key"], kind, every_agent
    )
    with service_of(wanted, quiet=wishes["as_json"]) as service:
        plan = plan_of(service, command_of(click_context), wishes)
        with StepBar(quiet=wishes["as_json"]) as bar:
            kept = run_kept(
                lambda keep, done: Traffic(plan, kind, bar, keep=keep, done=done).run(),
                kind, plan, plan.as_how(), wishes["out"], wishes["resume"],
            )  # fmt: skip
    return kept, plan.percentile


def check_load(wishes: dict[str, Any]) -> None:
    """InputError for words that are not a load, before anything is served."""
    from onecard.benchmark.arrivals import parse_arrivals
    from onecard.errors import InputError

    if wishes.get("callers") and wishes.get("arrivals"):
        raise InputError(
            "callers wait for their answers, a schedule does not", where="--arrivals", allowed="--callers or --arrivals"
        )
    if wishes.get("arrivals"):
        parse_arrivals(wishes["arrivals"])
    lengths_of(wishes)


def lengths_of(wishes: dict[str, Any]) -> dict[str, Any]:
    from onecard.benchmark.lengths import parse_lengths

    return {
        f"{name}_lengths": parse_lengths(wishes[f"{name}_tokens"], f"--{name}-tokens")
        if wishes[f"{name}_tokens"]
        else None
        for name in ("prompt", "answer")
    }


def plan_of(service: Service, command: str, wishes: dict[str, Any]) -> TrafficPlan:
    """The plan of a traffic that was asked for."""
    from onecard.benchmark.arrivals import parse_arrivals
    from onecard.benchmark.traffic import TrafficPlan

    arrivals = parse_arrivals(wishes["arrivals"]) if wishes["arrivals"] else None
    return TrafficPlan(
        callers=None if arrivals else wishes["callers"] or CALLERS,
        arrivals=arrivals,
        requests=wishes["requests"],
        seconds=wishes["minutes"] * 60 if "minutes" in wishes else None,
        repeats=wishes.get("repeats", 1),
        until=wishes["until"],
        **traffic_of(service, command, wishes),
    )


def traffic_of(service: Service, command: str, wishes: dict[str, Any]) -> dict[str, Any]:
    """What the plans of mix, steady and limit share."""
    from onecard.benchmark.mixes import parse_mix

    shares = parse_mix(wishes["mix"], list(service.prompts))
    return {
        "url": service.url,
        "prompts": {agent: service.prompts[agent] for agent in shares},
        "shares": shares,
        "presets": wishes["presets"],
        "max_new_tokens": wishes["max_new_tokens"],
        "deadline_ms": wishes["deadline"] * 1000 if wishes["deadline"] else None,
        "deadlines": service.deadlines,
        "percentile": wishes["percentile"],
        "seed": wishes["seed"],
        "timeout_s": wishes["timeout"],
        "api_key": wishes["api_key"],
        "command": command,
        **lengths_of(wishes),
        **service.about,
    }


def _code(parts: list[Part], percent: float) -> int:
    """1 when the share in time of any part lies below the percentile that was asked for."""
    return int(any(part.goodput is not None and part.goodput.share < percent / 100 for part in parts))


def _show(
    kept: Kept, parts: list[Part], first: str, sentences: list[str], as_json: bool, record: dict[str, Any]
) -> None:
    if as_json:
        click.echo(json.dumps({**kept_record(kept), **record}, indent=2))
        return
    from rich.text import Text

    from onecard.cli.bench_table import console_of

    console = console_of()
    console.print(parts_table(parts, first))
    adapters: list[tuple[str, str]] = [(part.name, ", ".join(part.adapters)) for part in parts if part.adapters]
    for sentence in (*sentences, *_rate_sentence(kept.result.steps)):
        console.print(Text(sentence))
    for name, answered in adapters if first == "agent" else []:
        console.print(Text(f"{name} was answered by {answered}", style="dim"))
    show_invalid(kept.result.steps)
    show_files(kept)


def _rate_sentence(steps: tuple[Step, ...]) -> list[str]:
    """What an open loop was meant to send, and what it sent."""
    from onecard.benchmark.breakdown import generator_verdict
    from onecard.benchmark.figures import plain

    step = steps[-1]
    sent = generator_verdict(step).sent_rps
    if step.rate_rps is None or sent is None:
        return []
    return [
        f"asked for {plain(step.rate_rps)} requests/s, meant to start {plain(sent)} requests/s; at most {step.callers} at once"
    ]
