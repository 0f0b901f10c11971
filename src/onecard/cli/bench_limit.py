"""`onecard bench limit`: the largest rate a service keeps within a deadline, from few probes that begin at a guess."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from onecard.cli.bench_files import Kept, check_folder, run_kept
from onecard.cli.bench_options import MODEL, SERVICE, TARGET, TRAFFIC, command_of, options
from onecard.cli.bench_output import conclude, kept_record, show_files, show_invalid
from onecard.cli.bench_service import Service, Wanted, service_of
from onecard.cli.bench_traffic import lengths_of, traffic_of

if TYPE_CHECKING:
    from onecard.benchmark.limit import LimitPlan
    from onecard.benchmark.rate_limit import Limit


@click.command(short_help="The largest rate within a deadline.")
@options(
    *SERVICE,
    *TRAFFIC,
    click.option(
        "--precision",
        type=click.FloatRange(0.01, 1),
        default=0.1,
        show_default=True,
        help="How close the two bounds are to come, as a part.",
    ),
    click.option("--probes", type=click.IntRange(2, 50), default=10, show_default=True, help="At the most so many."),
    click.option("--requests", type=click.IntRange(10), default=200, show_default=True, help="Requests of each probe."),
    click.option(
        "--guess",
        type=click.FloatRange(0, min_open=True),
        help="Requests/s to begin with.  [default: the plan's, else what one caller gets]",
    ),
    click.option(
        "--shape",
        default="poisson",
        show_default=True,
        help="How requests arrive: poisson, constant or bursts:SIZE.",
    ),
    MODEL,
    TARGET,
)
@click.pass_context
def limit(click_context: click.Context, /, **wishes: Any) -> int:
    """Probes rates in an open loop. A rate is kept when the share in time is above the percentile with 95% confidence.

    A rate at which latency rises to the end is missed, however many requests were in time by then. Exit code 1 when
    no rate was kept.

    \b
    Example:
      onecard bench limit examples/demo.yaml --model explainer --deadline 2
      onecard bench limit http://127.0.0.1:8700 --model explainer --deadline 4 --percentile 95 --guess 3
    """
    from onecard.benchmark.limit import LimitSearch
    from onecard.cli.bench_progress import StepBar

    check_folder(wishes["out"])
    _check(wishes)
    wanted = Wanted(
        wishes["target"], wishes["models"], wishes["presets"], wishes["prompts"], wishes["api_key"], "limit"
    )
    with service_of(wanted, quiet=wishes["as_json"]) as service, StepBar(quiet=wishes["as_json"]) as bar:
        plan = _plan(service, command_of(click_context), wishes)
        kept = run_kept(
            lambda keep, done: LimitSearch(plan, bar, keep=keep, done=done).run(),
            "limit", plan, plan.as_how(), wishes["out"], wishes["resume"],
        )  # fmt: skip
    from onecard.benchmark.limit import limit_in

    found = limit_in(kept.result.steps, plan)
    _show(kept, found, plan, wishes["as_json"])
    return conclude(kept, 0 if found.low_rps is not None else 1)


def _check(wishes: dict[str, Any]) -> None:
    """InputErrors before anything is served."""
    from onecard.benchmark.rate_limit import needed_to_keep
    from onecard.errors import InputError

    lengths_of(wishes)
    _shape(wishes["shape"])
    needed = needed_to_keep(wishes["percentile"])
    if wishes["requests"] < needed:
        problem = f"{wishes['requests']} requests cannot show that p{wishes['percentile']:g} is kept, were all of them in time"
        raise InputError(problem, where="--requests", allowed=f"{needed} or more for 95% confidence")


def _shape(text: str) -> Any:
    from onecard.benchmark.arrivals import parse_arrivals
    from onecard.errors import InputError

    kind, colon, size = text.partition(":")
    if kind not in ("poisson", "constant", "bursts"):
        raise InputError(
            f"'{text}' is not a shape of arrivals", where="--shape", allowed="poisson, constant, bursts:SIZE"
        )
    return parse_arrivals(f"{kind}:1{colon}{size}")


def _plan(service: Service, command: str, wishes: dict[str, Any]) -> LimitPlan:
    from dataclasses import replace

    from onecard.benchmark.limit import LimitPlan
    from onecard.errors import InputError

    traffic = traffic_of(service, command, wishes)
    if traffic["deadline_ms"] is None:
        known = {service.deadlines.get(agent) for agent in traffic["shares"]}
        if len(known) != 1 or None in known:
            raise InputError("within which deadline?", where="--deadline", allowed="seconds above 0")
        traffic["deadline_ms"] = known.pop()
    return LimitPlan(
        arrivals=replace(_shape(wishes["shape"]), words=wishes["shape"]),
        requests=wishes["requests"],
        guess_rps=wishes["guess"] or _planned_rps(service, list(traffic["shares"])),
        precision=wishes["precision"],
        probes=wishes["probes"],
        **traffic,
    )


def _planned_rps(service: Service, agents: list[str]) -> float | None:
    """What the plan says the asked agents' callers get done a second together; None without a fleet or a prediction."""
    if service.loaded is None:
        return None
    from onecard.cli.plan import plan_of, shapes_of
    from onecard.errors import OnecardError
    from onecard.planner.requests import agent_speed
    from onecard.planner.speed import is_cpu

    names = [agent.partition("@")[0] for agent in agents]
    if not all(name in service.loaded.fleet.agents for name in names):
        return None
    parts = {name: 1 / len(names) for name in names}
    try:
        plan = plan_of(service.loaded, offline=True)
        shapes = shapes_of(service.loaded, offline=True)
        on_cpu = is_cpu(plan.card)
        said = [
            agent_speed(service.loaded.fleet, name, shapes, plan.speed, on_cpu=on_cpu, parts=parts) for name in names
        ]
    except (OnecardError, KeyError):
        return None
    hourly = [one.requests_per_hour.expected for one in said if one.requests_per_hour]
    return sum(hourly) / 3600 if len(hourly) == len(names) and sum(hourly) > 0 else None


def _show(kept: Kept, found: Limit, plan: LimitPlan, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        record = {"low_rps": found.low_rps, "high_rps": found.high_rps, "probes": [asdict(one) for one in found.probes]}
        click.echo(json.dumps({**kept_record(kept), "guess_rps": plan.guess_rps, **record}, indent=2))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from onecard.benchmark.figures import readable
    from onecard.cli.bench_table import console_of

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("requests/s", "requests", "in time", "verdict"):
        table.add_column(head, justify="right")
    for one in sorted(found.probes, key=lambda probe: probe.rate_rps):
        judged = f"{one.verdict}{': latency rose to the end' if one.growing else ''}{'' if one.fair else ' (INVALID)'}"
        table.add_row(readable(one.rate_rps), str(one.count), f"{one.within / one.count:.1%}", judged)
    console = console_of()
    console.print(table)
    console.print(Text(sentence_of(found, plan), style="bold"))
    show_invalid(kept.result.steps)
    show_files(kept)


def sentence_of(found: Limit, plan: LimitPlan) -> str:
    """The answer in one sentence."""
    from onecard.benchmark.figures import plain

    within = f"p{plan.percentile:g} within {(plan.deadline_ms or 0) / 1000:g} s"
    if found.low_rps is None and found.high_rps is None:
        return f"no probe was decided: more --requests would tell ({within})"
    if found.low_rps is None:
        return f"{within} is not kept even at {plain(found.high_rps or 0)} requests/s"
    if found.high_rps is None:
        return f"{within} is kept at {plain(found.low_rps)} requests/s, the largest rate that was tried"
    return f"{within} is kept up to a rate between {plain(found.low_rps)} and {plain(found.high_rps)} requests/s"
