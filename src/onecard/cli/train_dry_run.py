"""`onecard train --dry-run`: the token ledger, how many steps there would be, and whether they would fit into memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet


def dry_run(loaded: LoadedFleet, agent: str, limit_rows: int | None, *, force: bool, as_json: bool) -> None:
    """DataError when a row would stop the run, DoesNotFit when its peak would, unless it is forced."""
    from onecard.cli.data import missing_part
    from onecard.cli.train_memory import planned_memory
    from onecard.cli.train_order import suite_file, trainable
    from onecard.weights.inventory import resolve

    _, recipe = trainable(loaded, agent)
    spec = loaded.agent(agent)
    folder = resolve(loaded.fleet.models[spec.model].id, loaded.folder)
    said: list[str] = []
    try:
        from onecard.training.preparation import planned_steps, prepare

        data, suite = loaded.data_file(agent), suite_file(loaded, agent)
        ledger = prepare(data, folder, recipe, spec.presets, limit_rows, suite).ledger
        memory = None if ledger.faults else planned_memory(loaded, agent, ledger, True, said.append)
    except ModuleNotFoundError as error:
        raise missing_part(error) from error
    steps = planned_steps(len(ledger.rows), recipe)
    if as_json:
        planned = {"planned_peak_bytes": memory.peak_bytes, "free_bytes": memory.free_bytes} if memory else {}
        click.echo(json.dumps({**ledger.summary(), "steps": steps, **planned}, indent=2))
    else:
        from onecard.cli.data_output import console_of, ledger_table

        console_of().print(ledger_table(ledger))
        for sentence in said:
            click.echo(sentence)
        click.echo(f"{steps} steps would be trained; nothing was.")
    ledger.demand_clean()
    if memory is not None and not force:
        from onecard.cli.train_memory import demand_fit

        demand_fit(memory, f"{loaded.file}: agents.{agent}.recipe")
