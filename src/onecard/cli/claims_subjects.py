"""From what a claim says it is about to what the planner can plan: the smallest fleet of that description.

What a claim leaves out is never filled in silently: a model without a length of requests is given the shortest, and whoever asks can see
that with `shape_said`; what nothing can be planned without is `Unsaid`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onecard.catalog.cards import Card, find_card
from onecard.catalog.units import GIB
from onecard.cli.model_shapes import shape_of
from onecard.cli.plan import card_of, plan_of
from onecard.evidence.claims import Subject
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet, load_recipe
from onecard.fleet.schema import Fleet
from onecard.planner.cache import model_engine
from onecard.planner.ledger import TAGS, Ledger, Tag
from onecard.planner.memory import Shapes, serving_ledger
from onecard.planner.plan import TIGHT_SHARE, Evidence, Plan, plan
from onecard.planner.requests import AgentSpeed
from onecard.planner.training_run import DataFacts, TrainingPlan

LEAST_CONTEXT = 64  # a question and a short answer: what a model needs at the very least to answer at all
PATIENT_S = (
    1e6  # a deadline gives a request its shape; this one is never missed, so that the planner looks for nothing faster
)
ANY_CARD = "h200"  # memory does not depend on the card, so a claim that names none is planned on a large one

# How far the lines of a ledger may be off, as shares of them.
SPREAD: dict[Tag, float] = {"exact": 0.0, "measured": 0.02, "fitted": 0.10, "assumed": TIGHT_SHARE}


class Unsaid(Exception):
    """The claim does not say what a prediction needs; the text says what."""


def planned(subject: Subject, folder: Path, **changes: Any) -> Plan:
    """The plan of what the subject describes, with nothing else on the card; `changes` replace keys of the subject."""
    subject = subject.model_copy(update=changes)
    if subject.fleet is not None:
        return plan_of(load_fleet(_fleet_file(subject.fleet, folder)), card_id=subject.card)
    fleet = described(subject, folder)
    rows = _rows(subject, fleet)
    card = find_card(subject.card or ANY_CARD)
    return plan(fleet, card, shapes_of(fleet, folder), Evidence(data={"agent": rows} if rows else {}))


def held(subject: Subject, folder: Path, **changes: Any) -> Ledger:
    """The serving ledger of what the subject describes, without the rest of a plan."""
    subject = subject.model_copy(update=changes)
    if subject.fleet is None:
        fleet, place = described(subject, folder), folder
    else:
        loaded = load_fleet(_fleet_file(subject.fleet, folder))
        fleet, place = loaded.fleet, loaded.folder
    return serving_ledger(fleet, shapes_of(fleet, place))


def room_for(subject: Subject, folder: Path) -> tuple[Card, int]:
    """The card, and the bytes of it there are: all, or what a fleet's reserve leaves. Unsaid without a card."""
    if subject.fleet is None:
        card = find_card(said(subject.card, "no card is named"))
        return card, card.total_bytes
    fleet = load_fleet(_fleet_file(subject.fleet, folder)).fleet
    card = card_of(fleet, subject.card)
    return card, card.total_bytes - round(fleet.reserve_gib * GIB)


def described(subject: Subject, folder: Path) -> Fleet:
    """The smallest fleet that the subject describes. Unsaid without a model."""
    asked = {"prompt_tokens": subject.prompt_tokens or 1, "new_tokens": subject.new_tokens or 1, "seconds": PATIENT_S}
    presets = {"default": {"max_new_tokens": asked["new_tokens"]}}
    agent: dict[str, Any] = {"model": "model", "deadline": asked, "presets": presets}
    if subject.recipe is not None:
        recipe = load_recipe(subject.recipe, folder, "recipe")
        if subject.epochs is not None:
            recipe["epochs"] = subject.epochs[1]
        agent |= {"recipe": recipe, "adapter": "adapter@production"}
    spec = {
        "id": said(subject.model, "no model is named"),
        "quantization": subject.quantization or "none",
        "engine": subject.engine,
        "context": subject.context or max(LEAST_CONTEXT, asked["prompt_tokens"] + asked["new_tokens"]),
        "concurrency": subject.callers or 1,
    }
    record = {"name": "claim", "card": "auto", "reserve_gib": 0, "models": {"model": spec}, "agents": {"agent": agent}}
    try:
        return Fleet.model_validate(record)
    except ValidationError as error:
        raise Unsaid(f"cannot be planned: {error.errors()[0]['msg']}") from None


def memory_range(ledger: Ledger) -> tuple[float, float, float]:
    """(least, expected, most) GiB of a ledger, by how sure each line is."""
    spread = sum(SPREAD[tag] * ledger.bytes_tagged(tag) for tag in TAGS)
    return (
        (ledger.total_bytes - spread) / GIB,
        ledger.total_bytes / GIB,
        (ledger.total_bytes + spread) / GIB,
    )


def speed_of(made: Plan, subject: Subject) -> AgentSpeed:
    """The speed of the subject's agent."""
    return next((a for a in made.agents if a.agent == subject.agent), made.agents[0])


def training_of(made: Plan, subject: Subject) -> TrainingPlan:
    """The training run of the subject's agent."""
    runs = [run for run in made.trainings if subject.agent in (None, run.agent)]
    if not runs:
        raise Unsaid("no recipe is named")
    return runs[0]


def shape_said(subject: Subject) -> bool:
    """Whether the claim says how long requests are, or names a fleet that does."""
    whole = subject.prompt_tokens is not None and subject.new_tokens is not None
    return whole or subject.fleet is not None


def what_planned(subject: Subject, folder: Path) -> str:
    """What was planned, in a few words."""
    if subject.fleet is not None:
        return f"plan: {Path(subject.fleet).stem}"
    fleet = described(subject, folder)
    spec = fleet.models["model"]
    form = {"none": "16 bits", None: "as published"}.get(subject.quantization, subject.quantization)
    words = f"plan: {form}, {model_engine(spec, shapes_of(fleet, folder)['model'])}"
    if subject.context is None and not shape_said(subject):
        return words
    callers = "one caller" if spec.concurrency == 1 else f"{spec.concurrency} callers"
    return f"{words}, {callers} of {spec.context:,} tokens"


def said(value: str | None, otherwise: str) -> str:
    if value is None:
        raise Unsaid(otherwise)
    return value


def shapes_of(fleet: Fleet, folder: Path) -> Shapes:
    return {key: shape_of(spec.id, folder, spec.engine == "remote", offline=True) for key, spec in fleet.models.items()}


def _fleet_file(named: str, folder: Path) -> Path:
    """An example fleet by its name, or a file beside the claims."""
    example = examples_folder() / f"{named}.yaml"
    return example if example.is_file() else folder / Path(named).expanduser()


def _rows(subject: Subject, fleet: Fleet) -> DataFacts | None:
    """Training rows as the claim gives them; without a length, as long as the recipe takes."""
    recipe = fleet.agents["agent"].recipe
    if recipe is None or subject.rows is None:
        return None
    tokens = min(subject.row_tokens or recipe.max_length, recipe.max_length)
    return DataFacts(subject.rows, subject.rows * tokens, tokens, "assumed", "claim: rows as it says")
