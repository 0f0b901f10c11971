"""`onecard doctor`: what is wrong on this machine, and the command that mends each. Reads facts, judges them, shows findings.

It changes nothing and asks no other machine, and it does not import torch: it answers at once, also where torch is what is broken.
"""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--port", default=8700, show_default=True, type=click.IntRange(1, 65535), help="The port the fleet is served on."
)
@click.option(
    "--cold-start", is_flag=True, help="Also start a model in a fresh process, time each part, and keep the times."
)
@click.option("--strict", is_flag=True, help="Exit code 1 for warnings too.")
@click.option("--json", "as_json", is_flag=True, help="Print findings and facts as JSON.")
@click.pass_context
def doctor(
    click_context: click.Context, fleet: Path | None, port: int, cold_start: bool, strict: bool, as_json: bool
) -> None:
    """Say what is wrong on this machine, and which command mends it; with FLEET, also what is wrong for that fleet.

    Looks at the driver and who holds the card's memory, disks and caches, installed versions against the pins, the active model
    against what a service has loaded, the port, and what is left of killed processes. Nothing is changed, and no other machine is
    asked. Exit code 0: no problem, 1: a problem.

    \b
    Example:
      onecard doctor
      onecard doctor examples/demo.yaml --cold-start
      onecard doctor examples/justnews-rtx3090.yaml --json
    """
    from onecard.cli.doctor_facts import read_facts
    from onecard.cli.doctor_findings import diagnose, worst
    from onecard.cli.doctor_output import record_of, show
    from onecard.cli.serve_output import steps
    from onecard.fleet.loader import load_fleet

    loaded = load_fleet(fleet) if fleet is not None else None
    with steps(as_json or not cold_start) as on_progress:
        on_progress("timing a cold start: libraries, model, first token")
        facts = read_facts(loaded, port, cold_start=cold_start)
    findings = diagnose(facts)
    if as_json:
        click.echo(json.dumps(record_of(facts, findings), indent=2))
    else:
        show(facts, findings, loaded.fleet.name if loaded is not None else None)
    bad = ("problem", *(("warning",) if strict else ()))
    click_context.exit(1 if worst(findings) in bad else 0)
