"""`onecard use`: one model becomes active on this card, and the shell that asks gets its variables.

Nothing but shell lines is ever written to standard output, and only once the record is in place; everything a person should read goes
to standard error. A model that does not fit is refused before anything is touched.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.cli.use_fit import Fitted, Ground
    from onecard.cli.use_targets import Place
    from onecard.planner.plan import Plan
    from onecard.weights.active import ActiveModel

FLEET = "fleet.yaml"


@click.command()
@click.argument("model", metavar="ROLE|PATH|ID", required=False)
@click.option("--list", "listed", is_flag=True, help="Show roles and models, what fits this card, and which is active.")
@click.option(
    "--fleet",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The fleet whose model it is, or a folder; default: ./fleet.yaml, else this folder without a fleet.",
)
@click.option("--card", "card_id", metavar="ID", help="Plan for this card of the catalog instead of the fleet's.")
@click.option(
    "--shell",
    type=click.Choice(["auto", "bash", "zsh", "fish"]),
    default="auto",
    show_default=True,
    help="Whose lines to print; auto: the shell that asks.",
)
@click.option("--force", is_flag=True, help="Activate it although it does not fit.")
@click.option("--offline", is_flag=True, help="Never ask the hub about a model that is not in the catalog.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts instead of shell lines.")
def use(
    model: str | None,
    listed: bool,
    fleet: Path | None,
    card_id: str | None,
    shell: str,
    force: bool,
    offline: bool,
    as_json: bool,
) -> int:
    """Make a model the active one: ROLE of the catalog (primary, maths, code, ...), a model of the fleet, a folder, or a hub ID.

    It is planned alone on the card first and refused when it does not fit. The choice is recorded in .active_model beside the fleet;
    standard output has only shell lines that set VLLM_MODEL_ID, VLLM_QUANTIZATION and VLLM_MAX_MODEL_LEN. What models.local.yaml beside
    the fleet says of a model (quantization, context, concurrency, env) wins. Exit code 1: it does not fit.

    \b
    Example:
      eval "$(onecard use primary)"
      onecard use primary --shell fish | source
      onecard use --list --card rtx-3070
    """
    from onecard.cli.use_fit import ground_of

    if listed == (model is not None) or model == "":
        raise click.UsageError("name a ROLE, PATH or ID, or ask for --list")
    place = place_of(fleet)
    places = places_of(place.folder)
    ground = ground_of(place, card_id, offline=offline)
    if model is None:
        return _list(place, ground, as_json)
    return _activate(model, place, ground, places, shell, force=force, as_json=as_json)


def place_of(named: Path | None) -> Place:
    """The folder the record lies in, with its fleet and overrides. A folder without fleet.yaml has no fleet."""
    from onecard.cli.use_overrides import read_overrides
    from onecard.cli.use_targets import Place
    from onecard.cli.weights_fleets import remember_fleet
    from onecard.fleet.loader import load_fleet

    at = named if named is not None else Path()
    file = at / FLEET if at.is_dir() else at
    loaded = load_fleet(file) if not at.is_dir() or file.exists() else None
    if loaded is not None:
        remember_fleet(loaded)
    folder = loaded.folder if loaded else at.resolve()
    return Place(folder, loaded, read_overrides(folder))


def places_of(folder: Path) -> dict[str, str]:
    """Where models lie by the folder's .env, followed in this process too; empty where the shell's own variables say it already."""
    from onecard.weights.environment import follow
    from onecard.weights.places import hub_cache

    taken = follow(folder)
    names = taken.names if taken else ()
    places = {"HF_HOME": os.environ["HF_HOME"]} if "HF_HOME" in names else {}
    if {"HF_HUB_CACHE", "ONECARD_MODELS"} & set(names):
        places["HF_HUB_CACHE"] = str(hub_cache())  # the one name of it that vLLM reads
    return places


def _list(place: Place, ground: Ground, as_json: bool) -> int:
    from onecard.cli.use_list import listing, record_of
    from onecard.cli.use_output import show_list

    found = listing(place, ground)
    if as_json:
        click.echo(json.dumps(record_of(found, ground), indent=2))
    else:
        show_list(found, ground)
    return 0


def _activate(
    asked: str, place: Place, ground: Ground, places: dict[str, str], shell: str, *, force: bool, as_json: bool
) -> int:
    """Plan, refuse or record, then the lines."""
    from onecard.cli.use_exports import exports, shell_of, variables_of
    from onecard.cli.use_fit import fitted, plan_of, refusal, vllm_form
    from onecard.cli.use_output import show_activated
    from onecard.cli.use_targets import target_of
    from onecard.weights.active import write_active

    made = fitted(target_of(asked, place), place, ground)
    plan = plan_of(made, place, ground)
    if not (made.fits and plan.serving_fits) and not force:
        raise refusal(made, plan, place, ground)
    record = _record(made, plan, place, ground, force=force)
    before = _before(place.folder)
    stale = {*place.overrides.variables, *(before.env if before else ())}
    form = vllm_form(made, ground)
    variables = variables_of(record, form, places, stale)
    lines = exports(variables, shell_of(shell))  # before the record is touched: what cannot be written is refused
    write_active(place.folder, record)
    if as_json:
        activated = record.model_dump(mode="json", by_alias=True)
        click.echo(json.dumps({"active": activated, "exports": variables}, indent=2))
        return 0
    show_activated(record, made, plan, before)
    _remark(record, form, place)
    click.echo(lines, nl=False)
    return 0


def _record(made: Fitted, plan: Plan, place: Place, ground: Ground, *, force: bool) -> ActiveModel:
    """The record of this activation. InputError for a name that no record can hold."""
    from pydantic import ValidationError

    from onecard import __version__
    from onecard.cli.use_list import on_disk
    from onecard.errors import InputError
    from onecard.planner.cache import model_engine
    from onecard.weights.active import ActiveModel, ActivePlan

    repository = _loadable(made, place, force=force)
    path = on_disk(repository, place.folder)[2]
    spec, override = made.spec, made.target.override
    try:
        return ActiveModel(
            id=made.target.id,
            repository=repository,
            path=str(path) if path else None,
            quantization=spec.quantization,
            context=spec.context,
            concurrency=spec.concurrency,
            engine=model_engine(spec, made.shape),
            card=ground.card.id,
            asked=made.target.asked,
            activated_at=datetime.now(UTC).replace(microsecond=0),
            plan=ActivePlan(
                by=made.target.source,
                need_bytes=plan.need_bytes,
                available_bytes=plan.available_bytes,
                fits=made.fits and plan.serving_fits,
                calibrated=ground.calibration is not None,
            ),
            env=override.variables if override else {},
            onecard=__version__,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        problem = fault["msg"].removeprefix("Value error, ")
        raise InputError(problem, where=where, next_step="rename it") from None


def _loadable(made: Fitted, place: Place, *, force: bool) -> str:
    """What an engine is told to load; Refusal where a 4-bit checkpoint is asked for that nobody is known to have made."""
    from onecard.cli.use_fit import repository_of
    from onecard.errors import Refusal

    repository = repository_of(made, place)
    if repository is not None:
        return repository
    form = made.spec.quantization
    if force:
        return made.target.id
    raise Refusal(
        f"{form} is loaded from a checkpoint that holds it, and the catalog knows none of {made.target.id}",
        where=made.target.settled.get("quantization", made.target.source),
        next_step=f"`onecard quantize {made.target.id} --to {form}` makes one: then use its folder; or quantization: nf4",
    )


def _before(folder: Path) -> ActiveModel | None:
    """What was active; a damaged record is said and replaced."""
    from onecard.cli.use_output import say
    from onecard.errors import InputError
    from onecard.weights.active import read_active

    try:
        return read_active(folder)
    except InputError as error:
        say(f"note: {error.where}: {error.problem}; it is replaced", "yellow")
        return None


def _remark(record: ActiveModel, form: str | None, place: Place) -> None:
    """What a person should do or know next."""
    from onecard.cli.use_list import on_disk
    from onecard.cli.use_output import say
    from onecard.weights.active import files_gone

    if form is None:
        held = f"vLLM cannot hold {record.quantization} of this model here, so its variables are unset"
        say(f"note: {held}; `onecard serve` can, and `quantization` in models.local.yaml names another form", "yellow")
    if record.path is None:
        said = on_disk(record.repository, place.folder)[1] or f"{record.repository} is not on this disk"
        say(f"note: {said}; `onecard fetch {record.repository}` gets it", "yellow")
    elif gone := files_gone(record):
        say(f"note: {gone}", "yellow")
