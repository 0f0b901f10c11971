"""`onecard bench`: load a service, any OpenAI-compatible one, and time it from the intended start of every request.

`measure` is what `onecard demo` calls as well: a plan in, two files and a result out. Progress goes to standard error, figures to
standard output.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onecard.cli.bench_compare import compare
from onecard.cli.bench_context import context
from onecard.cli.bench_files import Kept, check_folder, run_kept
from onecard.cli.bench_limit import limit
from onecard.cli.bench_options import MODEL, SERVICE, TARGET, command_of, options
from onecard.cli.bench_output import conclude, show_files
from onecard.cli.bench_service import Wanted, service_of
from onecard.cli.bench_traffic import mix, steady

if TYPE_CHECKING:
    from onecard.benchmark.sweep import SweepPlan


@click.group()
def bench() -> None:
    """Load a service and time it from the intended start of every request.

    The load goes straight to the server (no proxy), from this process. A step in which the load generator itself
    was late by more than a tenth of the median latency is marked invalid. Result files are written after every step.

    \b
    Example:
      onecard bench sweep examples/demo.yaml --model explainer
      onecard bench mix http://127.0.0.1:8700 --arrivals poisson:2 --mix zipf --deadline 4
      onecard bench limit http://127.0.0.1:8700 --model explainer --deadline 4
    """


for _verb in (context, steady, mix, limit, compare):
    bench.add_command(_verb)


@bench.command(short_help="Latency and throughput against concurrent callers.")
@options(
    *SERVICE,
    click.option(
        "--warmup", type=click.IntRange(0), default=1, show_default=True, help="Uncounted requests of each caller."
    ),
    click.option(
        "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Repeats of every number of callers."
    ),
    click.option("--requests", type=click.IntRange(1), default=30, show_default=True, help="Requests of each caller."),
    click.option("--callers", default="1..6", show_default=True, help="Concurrent callers: 1..6 or 1,2,4,8."),
    MODEL,
    TARGET,
)
@click.pass_context
def sweep(
    click_context: click.Context,
    /,
    target: str,
    models: tuple[str, ...],
    presets: tuple[str, ...],
    callers: str,
    out: Path,
    as_json: bool,
    **wishes: Any,
) -> int:
    """A closed loop: each caller sends its next request the moment its previous answer has ended.

    URL is any OpenAI-compatible service; a FLEET file is served by this command while it is measured. Every request
    goes into a JSON file, one row per step into a CSV beside it. Ctrl-C keeps what was measured (exit code 130);
    --resume FILE with the same options goes on from there.

    \b
    Example:
      onecard bench sweep examples/demo.yaml --model explainer --callers 1..6 --requests 30 --repeats 3
      onecard bench sweep http://127.0.0.1:8700 --model explainer --preset terse --max-new-tokens 32
    """
    from onecard.benchmark.sweep import SweepPlan, parse_callers

    check_folder(out)
    wanted = Wanted(target, models, presets, wishes["prompts"], wishes["api_key"], "sweep")
    with service_of(wanted, quiet=as_json) as service:
        plan = SweepPlan(
            url=service.url,
            prompts=service.prompts,
            presets=presets,
            callers=parse_callers(callers),
            requests=wishes["requests"],
            repeats=wishes["repeats"],
            warmup_requests=wishes["warmup"],
            max_new_tokens=wishes["max_new_tokens"],
            seed=wishes["seed"],
            timeout_s=wishes["timeout"],
            api_key=wishes["api_key"],
            command=command_of(click_context),
            **service.about,
        )
        kept = measure(plan, out, quiet=as_json, resume=wishes["resume"])
    if as_json:
        click.echo(json.dumps(_record(kept), indent=2))
    else:
        _show(kept)
    return conclude(kept)


def measure(plan: SweepPlan, out: Path, *, quiet: bool = False, resume: Path | None = None) -> Kept:
    """Runs the sweep with a live table, and writes JSON and CSV into `out`. Errors are those of `Sweep.run` and of writing."""
    from onecard.benchmark.sweep import Sweep
    from onecard.cli.bench_table import LiveTable

    if quiet:
        return run_kept(
            lambda keep, done: Sweep(plan, keep=keep, done=done).run(), "sweep", plan, plan.as_how(), out, resume
        )
    with LiveTable(plan) as table:
        return run_kept(
            lambda keep, done: Sweep(plan, table, keep=keep, done=done).run(), "sweep", plan, plan.as_how(), out, resume
        )


def _record(kept: Kept) -> dict[str, Any]:
    from onecard.benchmark.breakdown import generator_verdict
    from onecard.benchmark.statistics import caller_points, caution

    return {
        "result": str(kept.file),
        "csv": str(kept.table),
        "complete": kept.result.complete,
        "stopped_because": kept.result.stopped_because,
        "valid": all(generator_verdict(step).valid for step in kept.result.steps),
        "caution": caution(kept.result),
        "callers": [asdict(point) for point in caller_points(kept.result.steps)],
    }


def _show(kept: Kept) -> None:
    from rich.text import Text

    from onecard.benchmark.statistics import caution
    from onecard.cli.bench_table import console_of, figures_table

    console = console_of()
    console.print(figures_table(kept.result.steps))
    warning = caution(kept.result)
    if warning:
        console.print(Text(warning, style="yellow"))
    show_files(kept)
