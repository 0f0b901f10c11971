"""`onecard plan`: from a fleet file to its plan. Reads what the planner is not allowed to read: files, the catalog, this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.catalog.cards import Card
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.schema import Fleet
    from onecard.planner.plan import Plan
    from onecard.planner.shapes import ModelShape
    from onecard.planner.speed import SpeedFacts
    from onecard.planner.training_run import DataFacts

CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 12  # what a chat template puts around a row, about


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path))
@click.option(
    "--card",
    "card_id",
    metavar="ID",
    help="Plan for this card of the catalog instead of the fleet's; `auto`: this machine's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON.")
@click.pass_context
def plan(click_context: click.Context, fleet: Path, card_id: str | None, as_json: bool) -> None:
    """Say what the fleet in the file FLEET takes of its card, how fast it answers, and what training costs.

    Nothing is downloaded or loaded. Every figure says how sure it is: exact, measured, fitted or assumed. If it does not fit, the
    plan says what to change. Exit code 0: it fits, 1: it does not.

    \b
    Example:
      onecard plan examples/style-a10g.yaml
      onecard plan examples/justnews-rtx3090.yaml --card rtx-4090 --json
    """
    from onecard.fleet.loader import load_fleet

    loaded = load_fleet(fleet)
    made = plan_of(loaded, card_id=card_id)
    if as_json:
        from onecard.planner.record import plan_record

        click.echo(json.dumps(plan_record(made), indent=2))
    else:
        from onecard.cli.plan_output import show

        show(made, fleet)
    click_context.exit(0 if made.fits else 1)


def plan_of(loaded: LoadedFleet, *, card_id: str | None = None, speed: SpeedFacts | None = None) -> Plan:
    """The plan of a fleet file: its card, its models' shapes and its training rows looked up, then judged.

    `card_id` replaces the fleet's card; `speed` is what was measured of this machine. InputErrors of whatever is unknown.
    """
    from onecard.planner.plan import Evidence, plan

    card = card_of(loaded.fleet, card_id)
    shapes = {
        key: shape_of(spec.id, loaded.folder, spec.engine == "remote") for key, spec in loaded.fleet.models.items()
    }
    data = {agent: facts for agent in loaded.fleet.agents if (facts := data_facts(loaded, agent)) is not None}
    return plan(loaded.fleet, card, shapes, Evidence(speed=speed, data=data))


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


def shape_of(model_id: str, folder: Path, remote: bool = False) -> ModelShape:
    """What the planner needs of a model: from the catalog, or from its config.json on this disk. CatalogError for one in neither."""
    from onecard.catalog.models import find_model
    from onecard.errors import CatalogError, OnecardError
    from onecard.planner.shapes import shape_of_config, shape_of_model, unknown_shape
    from onecard.weights.inventory import EMBEDDED_PREFIX, read_config, resolve

    local = model_id.startswith((EMBEDDED_PREFIX, ".", "/", "~")) or (folder / model_id).is_dir()
    if remote:
        return unknown_shape(model_id)
    if local:
        return shape_of_config(model_id, read_config(resolve(model_id, folder)))
    try:
        return shape_of_model(find_model(model_id))
    except CatalogError as unknown:
        try:
            return shape_of_config(model_id, read_config(resolve(model_id, folder)))
        except CatalogError:
            raise
        except OnecardError:
            raise unknown from None


def data_facts(loaded: LoadedFleet, agent: str) -> DataFacts | None:
    """How many rows and about how many tokens an agent's training file has; None without a recipe, a file or a good row."""
    from onecard.errors import DataError
    from onecard.planner.training_run import DataFacts
    from onecard.training.rows import scan_rows

    spec = loaded.agent(agent)
    named = spec.data or (spec.recipe.data if spec.recipe else None)
    if spec.recipe is None or named is None:
        return None
    try:
        rows, _ = scan_rows(loaded.resolve(named))
    except DataError:
        return None
    lengths = [tokens_of(row.prompt, row.completion) for row in rows]
    if not lengths:
        return None
    source = f"{named}: tokens reckoned as characters / {CHARACTERS_PER_TOKEN}, and {TEMPLATE_TOKENS} of template"
    return DataFacts(len(lengths), sum(lengths), max(lengths), "assumed", source)


def tokens_of(prompt: str, completion: str) -> int:
    """About how many tokens a row has, without a tokenizer."""
    return TEMPLATE_TOKENS + -(-(len(prompt) + len(completion)) // CHARACTERS_PER_TOKEN)
