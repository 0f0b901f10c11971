"""`onecard verify`: every success criterion of a fleet as a check with what was seen, what was needed, and the evidence.

A deployment checklist that is a command. What cannot be looked at here says so; it is never counted as passed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onecard.cli.verify_records import CRITERIA

if TYPE_CHECKING:
    from onecard.cli.verify_records import Check


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Only this agent's checks; may be repeated.")
@click.option(
    "--only",
    "only",
    multiple=True,
    metavar="CRITERION",
    type=click.Choice(CRITERIA),
    help=f"Only {', '.join(CRITERIA)}.",
)
@click.option("--quick", is_flag=True, help="Few rows, two seeds, and no measured load.")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Held-out rows asked per preset; all of the suite's if these do not keep it.  [default: 24, --quick: 4]",
)
@click.option(
    "--training-gib",
    type=click.FloatRange(0, min_open=True),
    help="Limit of the training peak.  [default: the card's memory]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Limit of an answer, end to end, of an agent without a deadline.",
)
@click.option("--strict", is_flag=True, help="Exit code 1 also for what could not be checked.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Also write the record as JSON."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def verify(
    fleet: Path,
    agents: tuple[str, ...],
    only: tuple[str, ...],
    quick: bool,
    rows: int | None,
    training_gib: float | None,
    seconds: float,
    strict: bool,
    out: Path | None,
    as_json: bool,
) -> int:
    """Hold every success criterion of FLEET against what is really there: machine, plan, adapters, training, gate, service.

    The service is started as a process of its own on a free port, asked in every style, sent wrong requests and a short load, and
    stopped. Exit code 0: nothing failed, 1: something did. What could not be checked (no such card here, no file) is listed with
    its reason, does not count as passed, and fails only with --strict.

    \b
    Example:
      onecard verify examples/demo.yaml
      onecard verify examples/style-a10g.yaml --training-gib 12 --out results/verify.json
      onecard verify examples/qa-mi300x.yaml --only environment --only plan
    """
    from onecard.cli.verify_output import record_of, show, written
    from onecard.cli.verify_records import Wanted, exit_code
    from onecard.cli.verify_run import run_verification
    from onecard.cli.weights_fleets import open_fleet

    loaded = open_fleet(fleet)
    asked = rows or (4 if quick else 24)
    wanted = Wanted(
        criteria=tuple(name for name in CRITERIA if not only or name in only),
        agents=agents,
        training_gib=training_gib,
        seconds=seconds,
        rows=asked,
        prompts=min(asked, 2 if quick else 3),
        seeds=2 if quick else 3,
        quick=quick,
    )
    started_at, began_s = _now(), time.monotonic()
    with _display(as_json) as (on_check, on_progress):
        checks = run_verification(loaded, wanted, on_check, on_progress)
    record = record_of(checks, loaded, wanted, started_at, _now(), _where())
    if out is not None:
        written(out, record)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        show(checks, loaded.fleet.name, time.monotonic() - began_s)
        if out is not None:
            click.echo(f"record: {out}")
    return exit_code(checks, strict=strict)


@contextmanager
def _display(quiet: bool) -> Iterator[tuple[Callable[[Check], None], Callable[[str], None]]]:
    """What is being done, and each check once it is known, on standard error: under a spinner on a terminal, plain lines elsewhere."""
    from rich.text import Text

    from onecard.cli.verify_output import STYLES, console_of, line

    console = console_of(stderr=True)
    if quiet:
        yield (lambda check: None), (lambda step: None)
    elif not console.is_terminal:
        yield (lambda check: None), (lambda step: console.print(Text(step)))
    else:
        with console.status("verifying") as shown:

            def tell(check: Check) -> None:
                console.print(Text(line(check), style=STYLES[check.outcome], overflow="ellipsis", no_wrap=True))

            yield tell, (lambda step: shown.update(Text(step)))


def _where() -> dict[str, Any]:
    """This machine and its versions, as result files name them."""
    from onecard.benchmark.machine import this_machine

    return this_machine("http://127.0.0.1", False, None).model_dump(mode="json")


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")
