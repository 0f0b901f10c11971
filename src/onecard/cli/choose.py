"""`onecard choose`: which model in which form for an agent. Reads fleet, catalog, claims and result files; the planner decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onecard.catalog.quantization import Quantization
    from onecard.cli.choose_evidence import Evidence
    from onecard.evidence.claims import Claim
    from onecard.fleet.loader import LoadedFleet
    from onecard.planner.choice import Choice, Limits, Preference, Wish
    from onecard.planner.option import Candidate, Option, Place

TIMED_FOR_A_MISS = 24  # where nothing passes, so many of the nearest are timed too, to find what would have to give


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path))
@click.option("--agent", required=True, metavar="NAME", help="The agent whose model is chosen.")
@click.option(
    "--candidates",
    multiple=True,
    metavar="ID,...",
    help="Ids, folders, role:NAME, all. Left out: the catalog, by input.",
)
@click.option("--forms", metavar="FORM,...", help="none, int8, nf4, awq, gptq, fp8. Left out: those that are sensible.")
@click.option("--prefer", metavar="WORD,...", help="quality, speed, memory, context, cost: what counts first.")
@click.option(
    "--least-chance",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="0..1",
    help="Probability of the deadline from which a candidate passes. Left out: 0.5, expected to be in time.",
)
@click.option(
    "--licence", type=click.Choice(["open", "commercial", "any"]), default="any", help="What the licence must allow."
)
@click.option("--context", metavar="TOKENS", help="At least this context: 8192 or 32k. Left out: the fleet's.")
@click.option("--disk", metavar="SIZE", help="Largest download: 50GiB.")
@click.option("--no-gated", is_flag=True, help="Only repositories that anybody may download.")
@click.option("--card", "card_id", metavar="ID", help="Choose for this card instead of the fleet's.")
@click.option(
    "--calibration", type=click.Path(path_type=Path), metavar="FILE", help="What `onecard calibrate` measured."
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Measurements of `onecard bench` or `onecard evaluate`; may be repeated.",
)
@click.option("--all", "everything", is_flag=True, help="Show every row, not only the first of them.")
@click.option("--write", type=click.Path(path_type=Path), metavar="FILE", help="Write the fleet with the chosen model.")
@click.option("--force", is_flag=True, help="With --write: replace a file that is there.")
@click.option("--offline", is_flag=True, help="Never ask the hub about a model that is not in the catalog.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, with sources, as JSON.")
@click.pass_context
def choose(
    click_context: click.Context,
    fleet: Path,
    agent: str,
    candidates: tuple[str, ...],
    forms: str | None,
    prefer: str | None,
    least_chance: float | None,
    licence: Wish,
    context: str | None,
    disk: str | None,
    no_gated: bool,
    card_id: str | None,
    calibration: Path | None,
    results: tuple[Path, ...],
    everything: bool,
    write: Path | None,
    force: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Choose the model of one agent: hard limits first, then what is preferred.

    Every candidate takes the place of the agent's model in every sensible form, and the whole fleet is planned with it; other agents
    of that model move with it. Claims and measurements stand under the figures they are about. Nothing is downloaded. Exit code 0:
    something passes every limit, 1: nothing does.

    \b
    Example:
      onecard choose examples/qa-mi300x.yaml --agent question-answerer --candidates microsoft/phi-4,Qwen/Qwen3-8B
      onecard choose examples/local-rtx3070.yaml --agent assistant --licence open --disk 20GB
      onecard choose examples/style-a10g.yaml --agent writer --candidates role:general --prefer cost --write chosen.yaml
    """
    from onecard.cli.choose_candidates import candidates_of, check_forms
    from onecard.cli.choose_evidence import read_evidence
    from onecard.cli.choose_write import check_target, write_choice
    from onecard.cli.weights_fleets import open_fleet

    loaded = open_fleet(fleet)
    limits = limits_of(least_chance, licence, context, disk, no_gated)
    order, asked_forms = preferences_of(prefer), check_forms(forms)
    if write is not None:
        check_target(write, force)
    place = place_of(loaded, agent, limits, card_id, calibration, offline=offline)
    chosen_from = candidates_of(candidates, loaded.folder, loaded.fleet.agents[agent].input, offline=offline)
    evidence = read_evidence(results, known_claims(loaded), loaded.folder)
    choice = chosen(place, chosen_from, asked_forms, limits, order, evidence)
    written = None
    if write is not None and choice.chosen is not None:
        best = choice.chosen
        written = write_choice(loaded.file, write, place.key, best.id, best.quantization)
    if as_json:
        from onecard.cli.choose_record import record_of

        record = record_of(choice, place, limits, evidence, loaded)
        record["written"] = None if written is None else {"file": str(write), "notes": written}
        click.echo(json.dumps(record, indent=2))
    else:
        from onecard.cli.choose_output import show, show_written

        show(choice, place, limits, evidence, loaded, everything=everything)
        if written is not None and write is not None:
            show_written(choice, place, limits, write, written)
    click_context.exit(0 if choice.chosen is not None else 1)


def chosen(
    place: Place,
    candidates: Sequence[Candidate],
    forms: Sequence[Quantization],
    limits: Limits,
    order: Sequence[Preference],
    evidence: Evidence,
) -> Choice:
    """Every candidate in every form tried in the place, measurements added, and judged. Only what passes so far is timed."""
    from onecard.cli.choose_evidence import with_measurements
    from onecard.planner.choice import choose as choose_between
    from onecard.planner.choice import failures, how_far
    from onecard.planner.tryout import sensible_forms, tried, with_speeds

    options: list[Option] = []
    for candidate in candidates:
        for form in forms if forms and candidate.shape else sensible_forms(place, candidate):
            option = tried(place, candidate, form)
            if not failures(option, limits):
                option = with_measurements(with_speeds(option, place, 1), place, evidence)
            if option.speeds and not failures(option, limits):
                option = with_speeds(option, place)
            options.append(option)
    choice = choose_between(options, limits, order)
    if choice.chosen is None:
        near = sorted(choice.out, key=how_far)
        nearest = [out.option for out in near[:TIMED_FOR_A_MISS]]
        timed = {id(one): with_measurements(with_speeds(one, place), place, evidence) for one in nearest}
        choice = choose_between([timed.get(id(option), option) for option in options], limits, order)
    return choice


def place_of(
    loaded: LoadedFleet, agent: str, limits: Limits, card_id: str | None, calibration: Path | None, *, offline: bool
) -> Place:
    """The fleet with the agent whose model is chosen, on its card. FleetError for an agent nobody has or whose model is remote."""
    from onecard.cli.plan import calibration_of, card_of, data_facts, shapes_of
    from onecard.errors import FleetError
    from onecard.planner.calibrated import calibrated_context, calibrated_speed
    from onecard.planner.option import Place
    from onecard.planner.room import with_model
    from onecard.planner.speed import cold_start

    key = loaded.agent(agent).model
    if loaded.fleet.models[key].engine == "remote":
        raise FleetError(
            "the agent's model is remote, so nothing is chosen for this card",
            where=f"{loaded.file}: models.{key}.engine",
            next_step="choose for another agent",
        )
    card = card_of(loaded.fleet, card_id)
    fleet = with_model(loaded.fleet, key, context=limits.context) if limits.context else loaded.fleet
    data = {name: facts for name in fleet.agents if (facts := data_facts(loaded, name)) is not None}
    measured = calibration_of(card, calibration)
    speed = calibrated_speed(measured, card) if measured else cold_start(card)
    context = calibrated_context(measured) if measured else None
    place = Place(fleet, agent, card, shapes_of(loaded, offline=offline), speed, data, context)
    if place.available_bytes <= 0:
        raise FleetError(
            f"the reserve of {fleet.reserve_gib:g} GiB leaves nothing of the {card.total_gib:.4g} GiB of {card.name}",
            where="reserve_gib",
            allowed=f"below {card.total_gib:.4g}",
        )
    return place


def limits_of(least: float | None, licence: Wish, context: str | None, disk: str | None, no_gated: bool) -> Limits:
    """The hard limits as asked for. InputError for a size or a number of tokens that is none."""
    from onecard.catalog.units import parse_count, parse_size
    from onecard.errors import InputError
    from onecard.planner.choice import LEAST_CHANCE, Limits

    size = None if disk is None else _placed("--disk", parse_size, disk)
    if size == 0:
        raise InputError("a disk of no size holds nothing", where="--disk", allowed="a size such as 50GiB")
    return Limits(
        least_chance=LEAST_CHANCE if least is None else least,
        licence=licence,
        context=None if context is None else _context(_placed("--context", parse_count, context)),
        disk_bytes=size,
        gated=not no_gated,
    )


def preferences_of(asked: str | None) -> tuple[Preference, ...]:
    """What counts, in order. InputError with the nearest word for one there is not."""
    from onecard.errors import InputError, nearest
    from onecard.planner.choice import PREFERENCES

    if asked is None:
        return ()
    order: list[Preference] = []
    for word in [part.strip().lower() for part in asked.split(",")]:
        known = next((preference for preference in PREFERENCES if preference == word), None)
        if known is None:
            hint = nearest(word, PREFERENCES)
            raise InputError(f"no preference '{word}'{hint}", where="--prefer", allowed=", ".join(PREFERENCES))
        order.append(known)
    return tuple(dict.fromkeys(order))


def known_claims(loaded: LoadedFleet) -> list[Claim]:
    """Shipped claims, and those beside the fleet."""
    from onecard.cli.claims import OWN_FILE
    from onecard.evidence.claims_file import read_claims, shipped_claims

    return [*shipped_claims().claims, *read_claims(loaded.folder / OWN_FILE).claims]


def _placed(option: str, parse: Callable[[str], int], text: str) -> int:
    """The parsed figure; its error says at which option it was given."""
    from onecard.errors import InputError

    try:
        return parse(text)
    except InputError as error:
        raise InputError(error.problem, where=option, allowed=error.allowed, next_step=error.next_step) from None


def _context(tokens: int) -> int:
    from onecard.errors import InputError

    if not 16 <= tokens <= 10_000_000:
        raise InputError(f"a context of {tokens:,} tokens", where="--context", allowed="16 to 10,000,000")
    return tokens
