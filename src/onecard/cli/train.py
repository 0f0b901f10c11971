"""`onecard train`: counts the tokens, trains one agent's adapter, checks that it learned, and publishes it as the candidate.

The story is `run_training`, which `onecard demo` tells as well, with a display of its own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.adapters.store import StoredVersion
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.recipe import Recipe
    from onecard.fleet.schema import AgentSpec
    from onecard.training.order import Progress

LOADABLE = (
    "none",
    "int8",
    "nf4",
)  # what the in-process engine serves, where an adapter must meet the weights it was trained on


@click.command(short_help="Train one agent's adapter and publish it as a candidate.")
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--agent", required=True, help="The agent whose adapter is trained.")
@click.option("--limit-rows", type=click.IntRange(min=1), help="Train on the first rows only.")
@click.option("--store", help="Another store than the fleet's.")
@click.option("--dry-run", is_flag=True, help="Count the tokens and stop; nothing is trained.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def train(fleet: Path, agent: str, limit_rows: int | None, store: str | None, dry_run: bool, as_json: bool) -> None:
    """Train AGENT's adapter by its recipe and publish it to the store as a new version, the candidate.

    Nothing is published when a row is faulty, when the loss does not fall, or when the saved adapter does not answer
    like the trained model. Ctrl-C leaves the store as it was.

    \b
    Example:
      onecard train examples/demo.yaml --agent explainer
      onecard train examples/demo.yaml --agent explainer --limit-rows 400 --dry-run
    """
    from onecard.cli.weights_fleets import open_fleet

    loaded = open_fleet(fleet)
    if dry_run:
        _dry_run(loaded, agent, limit_rows, as_json)
        return
    from onecard.cli.train_output import bar, record_of, sentences_of

    with bar(quiet=as_json) as on_progress:
        stored = run_training(loaded, agent, on_progress=on_progress, limit_rows=limit_rows, store=store)
    if as_json:
        click.echo(json.dumps(record_of(stored), indent=2))
        return
    for sentence in sentences_of(stored):
        click.echo(sentence)
    click.echo(f"Next: onecard evaluate {fleet} --agent {agent}")


def run_training(
    loaded: LoadedFleet,
    agent: str,
    *,
    on_progress: Callable[[Progress], None],
    limit_rows: int | None = None,
    store: str | None = None,
) -> StoredVersion:
    """Trains and publishes; the new version is the candidate. The store is as it was when anything goes wrong, Ctrl-C included.

    FleetError for an agent that cannot be trained, and what `train_adapter` and `Store.publish` raise.
    """
    from onecard.adapters.store import Store
    from onecard.cli.data import missing_part
    from onecard.weights.inventory import fingerprint, resolve

    name, recipe = _trainable(loaded, agent)
    spec = loaded.agent(agent)
    model = loaded.fleet.models[spec.model]
    data_file, folder = loaded.data_file(agent), resolve(model.id, loaded.folder)
    shelf = Store(store or loaded.store_url)
    try:
        from onecard.training.order import TrainingOrder
        from onecard.training.training import train_adapter
    except ModuleNotFoundError as error:
        raise missing_part(error) from error
    with _run_folder(shelf.root, f"{agent}-{name}") as run_folder:
        order = TrainingOrder(
            agent=agent,
            name=name,
            base_id=model.id,
            base_folder=folder,
            base_fingerprint=fingerprint(folder),
            recipe=recipe,
            data_file=data_file,
            output=run_folder / "adapter",
            presets=spec.presets,
            limit_rows=limit_rows,
            run_folder=run_folder,
        )
        trained = train_adapter(order, on_progress)
        return shelf.publish(agent=agent, name=name, folder=trained.folder, manifest=trained.manifest)


def _trainable(loaded: LoadedFleet, agent: str) -> tuple[str, Recipe]:
    """The adapter's name and the recipe; FleetError for what is missing or would make an adapter that nobody can serve."""
    from onecard.errors import FleetError

    spec, where = loaded.agent(agent), f"{loaded.file}: agents.{agent}"
    if spec.adapter_name is None:
        raise FleetError(
            "no adapter to train",
            where=f"{where}.adapter",
            allowed="<name>@<version or alias>",
            next_step=f"add `adapter: {agent}@production` to the agent",
        )
    if spec.recipe is None:
        raise FleetError(
            "no recipe", where=f"{where}.recipe", next_step="name a shipped one such as `recipe: qlora`, or write one"
        )
    _same_weights(loaded, spec, where)
    return spec.adapter_name, spec.recipe


def _same_weights(loaded: LoadedFleet, spec: AgentSpec, where: str) -> None:
    from onecard.errors import FleetError

    model, recipe = loaded.fleet.models[spec.model], spec.recipe
    if recipe is None or model.engine not in ("auto", "local") or model.quantization not in LOADABLE:
        return
    scales_differ = model.quantization == "nf4" and model.double_quantization != recipe.double_quantization
    if model.quantization != recipe.base_quantization or scales_differ:
        raise FleetError(
            f"the recipe trains on {recipe.base_quantization} weights"
            f"{' with other block scales' if scales_differ else ''} and model '{spec.model}' is served in "
            f"{model.quantization}: the adapter would be refused when it is served",
            where=f"{where}.recipe.base_quantization",
            allowed=f"{model.quantization} with double_quantization: {str(model.double_quantization).lower()}",
            next_step="change the recipe or the model",
        )


@contextmanager
def _run_folder(store: Path, name: str) -> Iterator[Path]:
    """Where a run writes, beside the store and on its disk. Only checkpoints of a run that failed stay behind."""
    from onecard.adapters.durable import disk_errors

    runs = store.with_name(f"{store.name}-runs")
    with disk_errors(runs, 0):
        runs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs))
    try:
        yield folder
    except BaseException:
        if not list(folder.glob("checkpoint-*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):
            runs.rmdir()


def _dry_run(loaded: LoadedFleet, agent: str, limit_rows: int | None, as_json: bool) -> None:
    """The ledger and the number of steps; DataError when a row would stop the run."""
    from onecard.cli.data import missing_part
    from onecard.weights.inventory import resolve

    _, recipe = _trainable(loaded, agent)
    spec = loaded.agent(agent)
    folder = resolve(loaded.fleet.models[spec.model].id, loaded.folder)
    try:
        from onecard.training.preparation import planned_steps, prepare

        ledger = prepare(loaded.data_file(agent), folder, recipe, spec.presets, limit_rows).ledger
    except ModuleNotFoundError as error:
        raise missing_part(error) from error
    steps = planned_steps(len(ledger.rows), recipe)
    if as_json:
        click.echo(json.dumps({**ledger.summary(), "steps": steps}, indent=2))
    else:
        from onecard.cli.data_output import console_of, ledger_table

        console_of().print(ledger_table(ledger))
        click.echo(f"{steps} steps would be trained; nothing was.")
    ledger.demand_clean()
