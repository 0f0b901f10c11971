"""`onecard train`: counts the tokens, asks whether the run fits, trains one agent's adapter, checks that it learned, and publishes it.

The story is `run_training`, which `onecard demo` tells as well, with a display of its own. A run that was killed is gone on with by
`--resume`; where it keeps what it needs for that stands in train_runs.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from onecard.adapters.store import Store, StoredVersion
    from onecard.cli.train_memory import MemoryPlan, Watch
    from onecard.cli.train_runs import OpenRun, RunOf
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.recipe import Recipe
    from onecard.training.order import Progress, TrainedAdapter, TrainingOrder


def _cards(context: click.Context, parameter: click.Parameter, value: str) -> int | Literal["all"]:
    if value == "all":
        return "all"
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise click.BadParameter(f"'{value}' is neither a number of cards nor `all`")


@click.command(short_help="Train one agent's adapter and publish it as a candidate.")
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--agent", required=True, help="The agent whose adapter is trained.")
@click.option("--resume", is_flag=True, help="Go on with this adapter's newest run that did not come to its end.")
@click.option(
    "--cards", default="1", show_default=True, metavar="N|all", callback=_cards, help="Cards to spread each step over."
)
@click.option("--limit-rows", type=click.IntRange(min=1), help="Train on the first rows only.")
@click.option("--store", help="Another store than the fleet's.")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also write the figures of every step for TensorBoard, each run in a folder of its own below FOLDER.",
)
@click.option("--force", is_flag=True, help="Try even when the plan says that memory does not suffice.")
@click.option("--dry-run", is_flag=True, help="Count the tokens, plan the memory and stop; nothing is trained.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def train(
    fleet: Path,
    agent: str,
    resume: bool,
    cards: int | Literal["all"],
    limit_rows: int | None,
    store: str | None,
    tensorboard: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train AGENT's adapter by its recipe and publish it to the store as a new version, the candidate.

    Nothing is published when a row is faulty, when the loss does not fall, or when the saved adapter does not answer
    like the trained model. Nothing is loaded when the plan's peak is more than the memory that is free. Ctrl-C, or a
    kill at any moment, leaves the store as it was; --resume goes on from the newest checkpoint and comes to the same result.

    \b
    Example:
      onecard train examples/demo.yaml --agent explainer
      onecard train examples/demo.yaml --agent explainer --limit-rows 400 --dry-run
      onecard train examples/demo.yaml --agent explainer --resume
    """
    from onecard.cli.weights_fleets import open_fleet

    loaded = open_fleet(fleet)
    if tensorboard is not None:
        demand_tensorboard()
    if dry_run:
        from onecard.cli.train_dry_run import dry_run as count

        count(loaded, agent, limit_rows, force=force, as_json=as_json)
        return
    from onecard.cli.train_output import bar, record_of, sentences_of

    again = f"onecard train {fleet} --agent {agent}"
    wishes = Wishes(limit_rows, store, resume, force, tensorboard, cards, again)
    with bar(quiet=as_json) as display:
        done = run_training(loaded, agent, on_progress=display, say=display.say, wishes=wishes)
    if as_json:
        click.echo(json.dumps(record_of(done), indent=2))
        return
    for sentence in sentences_of(done):
        click.echo(sentence)
    click.echo(f"Next: onecard evaluate {fleet} --agent {agent}")


@dataclass(frozen=True)
class Wishes:
    """What a person may ask of a run beside the fleet. `again` is the command that starts it, for what to type next."""

    limit_rows: int | None = None
    store: str | None = None
    resume: bool = False
    force: bool = False
    tensorboard: Path | None = None
    cards: int | Literal["all"] = 1
    again: str | None = None

    def resuming(self, agent: str) -> str:
        """The command that goes on with the run."""
        asked = {"--limit-rows": self.limit_rows, "--store": self.store, "--tensorboard": self.tensorboard}
        if self.cards != 1:
            asked["--cards"] = self.cards
        options = [f"{name} {value}" for name, value in asked.items() if value is not None]
        return " ".join([self.again or f"onecard train FLEET --agent {agent}", *options, "--resume"])


@dataclass(frozen=True)
class FinishedRun:
    """A published version and what is left of its run: `folder` keeps metrics.jsonl and the curve's picture.

    `memory` is the plan it was compared with, None where nothing could be planned. `unpictured` says why there is no picture.
    """

    stored: StoredVersion
    folder: Path
    resumed_from: int | None = None
    memory: MemoryPlan | None = None
    unpictured: str | None = None


def run_training(
    loaded: LoadedFleet,
    agent: str,
    *,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None] = lambda sentence: None,
    wishes: Wishes | None = None,
) -> FinishedRun:
    """Trains and publishes; the new version is the candidate. The store is as it was when anything goes wrong, Ctrl-C included.

    `say` hears, in plain text, what a person should know at once: from where a run goes on, how to go on with one that stopped.
    FleetError for an agent that cannot be trained, DoesNotFit when the plan's peak is more than what is free, StoreBusy when the run
    to go on with is under way, and what `train_adapter` and `Store.publish` raise.
    """
    from onecard.adapters.store import Store
    from onecard.cli.train_memory import Watch
    from onecard.cli.train_order import order_of
    from onecard.cli.train_runs import RunOf, run_folder

    wishes = wishes or Wishes()
    order = order_of(loaded, agent, wishes.limit_rows)
    shelf = Store(wishes.store or loaded.store_url)
    of = RunOf(shelf.where, agent, order.name)
    with run_folder(shelf.runs_folder, of, wishes.resume) as run:
        if (published := _published(shelf, of, run)) is not None:
            say(f"That run was published as {published.address} before it was killed: nothing is left to be done.")
            return _kept(run, of, published, None)
        _tell_start(run, shelf.runs_folder, of, wishes, say)
        watch = Watch(loaded, agent, wishes.force, on_progress, say)
        try:
            trained = _train(_placed(order, run, wishes), wishes.cards, watch)
            stored = shelf.publish(agent, order.name, trained.folder, watch.with_plan(trained.manifest))
        except KeyboardInterrupt:
            say(_stopped(run, order.recipe, watch.step, wishes.resuming(agent)))
            raise
        return _kept(run, of, stored, watch.memory)


def _placed(order: TrainingOrder, run: OpenRun, wishes: Wishes) -> TrainingOrder:
    """The order with its places; every run has a folder of its own for TensorBoard, and a run that goes on has its first one."""
    from onecard.cli.train_runs import ADAPTER

    board = wishes.tensorboard / run.folder.name if wishes.tensorboard else None
    resume = run.resumed_from is not None
    return replace(order, output=run.folder / ADAPTER, run_folder=run.folder, resume=resume, tensorboard=board)


def _train(order: TrainingOrder, cards: int | Literal["all"], watch: Watch) -> TrainedAdapter:
    from onecard.cli.data import missing_part

    try:
        from onecard.training.several import train_on_cards
    except ModuleNotFoundError as error:
        raise missing_part(error) from error
    return train_on_cards(order, cards, watch)


def _published(shelf: Store, of: RunOf, run: OpenRun) -> StoredVersion | None:
    """The version that a killed run had already become."""
    from onecard.cli.train_runs import published_from
    from onecard.errors import UnknownName

    if run.resumed_from is None:
        return None
    try:
        return published_from(run, shelf.versions(of.agent, of.name))
    except UnknownName:
        return None


def _tell_start(run: OpenRun, runs: Path, of: RunOf, wishes: Wishes, say: Callable[[str], None]) -> None:
    """From where a run goes on, that there was none to go on with, or that there would have been one."""
    from onecard.cli.train_runs import checkpoint_step, moment, unfinished

    if run.resumed_from is not None:
        say(f"Going on with the run of {of} that began at {moment(run.started_at)}, from step {run.resumed_from}.")
    elif wishes.resume:
        say(f"No unfinished run of {of} has a checkpoint: starting anew.")
    else:
        left = [(folder, at) for folder, at in unfinished(runs, of) if folder != run.folder and checkpoint_step(folder)]
        if left:
            folder, at = left[0]
            say(
                f"This is a new run. One that began at {moment(at)} has a checkpoint of step {checkpoint_step(folder)}: "
                "--resume goes on with it."
            )


def _stopped(run: OpenRun, recipe: Recipe, step: int, command: str) -> str:
    """What Ctrl-C left, and what to type next."""
    kept = run.checkpoint_step()
    if kept:
        lost = (
            f"{step - kept} {'step is' if step - kept == 1 else 'steps are'} lost" if step > kept else "nothing is lost"
        )
        return f"Stopped at step {max(step, kept)}; the checkpoint of step {kept} is kept, {lost}. To go on: {command}"
    due = f"every {recipe.checkpoints.every_steps} steps or {recipe.checkpoints.every_minutes:g} minutes"
    if not step:
        return "Stopped before the first step: nothing is lost, nothing is left."
    done = f"{step} {'step is' if step == 1 else 'steps are'}"
    return f"Stopped before the first checkpoint ({due}): {done} lost, nothing is left."


def _kept(run: OpenRun, of: RunOf, stored: StoredVersion, memory: MemoryPlan | None) -> FinishedRun:
    """Tidies up behind a published version: its metrics and its curve stay under its name."""
    from onecard.cli.train_curve import draw_curve
    from onecard.cli.train_runs import finish

    folder = finish(run, of, stored.version)
    return FinishedRun(stored, folder, run.resumed_from, memory, draw_curve(folder, stored))


def demand_tensorboard() -> None:
    """MissingPart at once, and not after the base was loaded."""
    from importlib.util import find_spec

    from onecard.errors import MissingPart

    if find_spec("tensorboard") is None:
        raise MissingPart("tensorboard is not installed", where="--tensorboard", next_step="pip install tensorboard")
