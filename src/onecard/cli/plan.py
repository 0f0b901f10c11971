"""`onecard plan`: from a fleet file to its plan. Reads what the planner is not allowed to read: files, the catalog, this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onecard.catalog.cards import Card
    from onecard.evidence.calibration import Calibration
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.schema import Fleet
    from onecard.planner.plan import Plan
    from onecard.planner.room import Frontier
    from onecard.planner.shapes import ModelShape
    from onecard.planner.speed import SpeedFacts
    from onecard.planner.training_run import DataFacts

CHARACTERS_PER_TOKEN = 4
MOST_HOURS = 100_000
TEMPLATE_TOKENS = 12  # what a chat template puts around a row, about


def _hours(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Hours as a number: what is not one passes every range."""
    if value is not None and not 0 < value <= MOST_HOURS:
        raise click.BadParameter(f"{value} is not between 0 and {MOST_HOURS:,} hours")
    return value


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path))
@click.option(
    "--card",
    "card_id",
    metavar="ID",
    help="Plan for this card of the catalog instead of the fleet's; `auto`: this machine's.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `onecard calibrate` measured of the card, in place of data sheets.",
)
@click.option(
    "--finish-in",
    "hours",
    type=float,
    callback=_hours,
    metavar="HOURS",
    help="Say how likely training is done within so many hours; exit code 1 when it most likely is not.",
)
@click.option("--limits", is_flag=True, help="Also show callers against context for every model.")
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Also draw the card's memory by agent.")
@click.option("--offline", is_flag=True, help="Never ask the hub about a model that is not in the catalog.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON.")
@click.pass_context
def plan(
    click_context: click.Context,
    fleet: Path,
    card_id: str | None,
    calibration: Path | None,
    hours: float | None,
    limits: bool,
    svg: Path | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Say what the fleet in the file FLEET takes of its card, how fast it answers, and what training costs.

    No weights are downloaded or loaded. Every figure says how sure it is: exact, measured, fitted or assumed. If it does not fit, the
    plan says what to change. Exit code 0: it fits, 1: it does not.

    \b
    Example:
      onecard plan examples/style-a10g.yaml --finish-in 1
      onecard plan examples/justnews-rtx3090.yaml --card rtx-4090 --limits
      onecard plan examples/newsreader-rtx3090.yaml --svg card.svg
    """
    from onecard.cli.weights_fleets import open_fleet

    loaded = open_fleet(fleet)
    card = card_of(loaded.fleet, card_id)
    shapes = shapes_of(loaded, offline=offline)
    made = planned(loaded, card, shapes, calibration_of(card, calibration))
    frontiers = frontiers_of(made, shapes) if limits or as_json else ()
    if svg is not None:
        from onecard.cli.plan_svg import write_svg

        write_svg(made, svg)
    if as_json:
        click.echo(json.dumps(record_of(made, frontiers, hours), indent=2))
    else:
        from onecard.cli.plan_output import show

        show(made, fleet, frontiers=frontiers, hours=hours)
        if svg is not None:
            click.echo(f"drawn: {svg}")
    click_context.exit(0 if made.fits and not late(made, hours) else 1)


def plan_of(
    loaded: LoadedFleet, *, card_id: str | None = None, calibration: Calibration | None = None, offline: bool = False
) -> Plan:
    """The plan of a fleet file: its card, its models' shapes and its training rows looked up, then judged.

    `card_id` replaces the fleet's card; `calibration` is what was measured of it. InputErrors of whatever is unknown.
    """
    return planned(loaded, card_of(loaded.fleet, card_id), shapes_of(loaded, offline=offline), calibration)


def planned(
    loaded: LoadedFleet, card: Card, shapes: dict[str, ModelShape], calibration: Calibration | None = None
) -> Plan:
    """The plan of a fleet file whose card and shapes are known, with its training rows."""
    from onecard.planner.calibrated import calibrated_context, calibrated_speed
    from onecard.planner.plan import Evidence, plan

    data = {agent: facts for agent in loaded.fleet.agents if (facts := data_facts(loaded, agent)) is not None}
    evidence = Evidence(data=data)
    if calibration is not None:
        evidence = Evidence(calibrated_speed(calibration, card), data, calibrated_context(calibration))
    return plan(loaded.fleet, card, shapes, evidence)


def shapes_of(loaded: LoadedFleet, *, offline: bool = False) -> dict[str, ModelShape]:
    """What the planner needs of each model of the fleet, by its key."""
    from onecard.cli.model_shapes import shape_of

    models = loaded.fleet.models.items()
    return {key: shape_of(spec.id, loaded.folder, spec.engine == "remote", offline=offline) for key, spec in models}


def card_of(fleet: Fleet, card_id: str | None = None) -> Card:
    """The card a fleet is for: of the catalog, of this machine, or as described in the file."""
    from onecard.catalog.cards import custom_card
    from onecard.catalog.machine import resolve_card

    wanted = card_id or fleet.card
    if isinstance(wanted, str):
        return resolve_card(wanted)
    return custom_card(
        wanted.vram_gib, wanted.bandwidth_gbs, wanted.bf16_tflops, usd_per_hour=wanted.usd_per_hour, name=wanted.name
    )


def calibration_of(card: Card, path: Path | None) -> Calibration | None:
    """The calibration in this file, or without one this machine's own of this card, if there is one.

    ResultError for a broken file or another card's.
    """
    from onecard.evidence.calibration import calibration_file, find_calibration, read_calibration
    from onecard.planner.calibrated import check_card

    measured = read_calibration(path) if path else find_calibration(card.id)
    if measured is not None:
        check_card(measured, card, str(path or calibration_file(card.id)))
    return measured


def speed_of(card: Card, path: Path | None) -> SpeedFacts | None:
    """What a calibration says of the speed of this card; None without one."""
    from onecard.planner.calibrated import calibrated_speed

    measured = calibration_of(card, path)
    return None if measured is None else calibrated_speed(measured, card)


def frontiers_of(made: Plan, shapes: dict[str, ModelShape]) -> tuple[Frontier, ...]:
    """Callers against context for every model that is on the card."""
    from onecard.planner.room import Room, frontier
    from onecard.planner.speed import is_cpu

    room = Room(made.available_bytes, shapes, is_cpu(made.card), made.card.fp8)
    return tuple(frontier(made.fleet, limit.model, room) for limit in made.limits if limit.engine != "remote")


def late(made: Plan, hours: float | None) -> bool:
    """Whether training, all runs one after the other, is most likely not done in so many hours."""
    from onecard.planner.chance import chance, verdict
    from onecard.planner.speed import Seconds

    times = [run.time.seconds for run in made.trainings if run.time]
    if hours is None or not times:
        return False
    whole = Seconds(sum(t.low for t in times), sum(t.expected for t in times), sum(t.high for t in times))
    return verdict(chance(whole, hours * 3600)) == "misses"


def record_of(made: Plan, frontiers: tuple[Frontier, ...], hours: float | None) -> dict[str, Any]:
    """The plan as plain data, with the frontiers and, where it was asked, the chance that training ends in time."""
    from dataclasses import asdict

    from onecard.planner.record import plan_record

    record = plan_record(made)
    record["frontiers"] = [asdict(frontier) for frontier in frontiers]
    if hours is not None:
        runs = {run.agent: run.time.chance(hours * 3600) for run in made.trainings if run.time}
        record["finish_in"] = {"hours": hours, "probability": runs, "late": late(made, hours)}
    return record


def data_facts(loaded: LoadedFleet, agent: str) -> DataFacts | None:
    """How many rows and about how many tokens an agent's training file has; None without a recipe, a file or a good row."""
    from onecard.errors import DataError, MissingPart
    from onecard.fleet.recipe import HUB
    from onecard.planner.training_run import DataFacts
    from onecard.training.rows import scan_rows

    spec = loaded.agent(agent)
    named = spec.data or (spec.recipe.data if spec.recipe else None)
    if spec.recipe is None or named is None or named.startswith(HUB):
        return None  # a plan asks no hub
    try:
        rows, _ = scan_rows(loaded.resolve(named))
    except (DataError, MissingPart):
        return None
    lengths = [tokens_of(row.prompt, row.completion) for row in rows]
    if not lengths:
        return None
    source = f"{named}: tokens reckoned as characters / {CHARACTERS_PER_TOKEN}, and {TEMPLATE_TOKENS} of template"
    return DataFacts(len(lengths), sum(lengths), max(lengths), "assumed", source)


def tokens_of(prompt: str, completion: str) -> int:
    """About how many tokens a row has, without a tokenizer."""
    return TEMPLATE_TOKENS + -(-(len(prompt) + len(completion)) // CHARACTERS_PER_TOKEN)
