"""What the planner and the catalog say about a claim: a range in the claim's own quantity, or why there is none.

Thin: has the subject of the claim planned (claims_subjects.py) and reads the figure off the plan. A figure that depends on what a claim
leaves out is either only known from below, or not predicted, and the reason is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onecard.catalog.cards import Card, find_card
from onecard.catalog.units import GIB
from onecard.cli import claims_facts as facts
from onecard.cli.claims_subjects import (
    Unsaid,
    described,
    held,
    memory_range,
    planned,
    room_for,
    said,
    shape_said,
    shapes_of,
    speed_of,
    training_of,
    what_planned,
)  # fmt: skip
from onecard.errors import OnecardError
from onecard.evidence.claims import Claim, Predicted, Quantity, Subject
from onecard.planner.ledger import TAGS, Ledger, Tag
from onecard.planner.plan import Evidence, Plan, plan
from onecard.planner.requests import AgentSpeed
from onecard.planner.speed import Seconds
from onecard.planner.training_run import TrainingPlan


@dataclass(frozen=True)
class Prediction:
    """A prediction, or why there is none."""

    predicted: Predicted | None
    missing: str | None = None


def predict(claim: Claim, folder: Path) -> Prediction:
    """What is to be expected. Fleet and recipe files are relative to `folder`. Never fails for what a claim says or leaves out."""
    try:
        return Prediction(_QUANTITIES[claim.quantity](claim.subject, folder))
    except Unsaid as unsaid:
        return Prediction(None, str(unsaid))
    except OnecardError as error:
        return Prediction(None, error.problem)


def _memory(subject: Subject, folder: Path) -> Predicted:
    ledger = held(subject, folder)
    low, expected, high = memory_range(ledger)
    tag, what = _least_sure(ledger), what_planned(subject, folder)
    if subject.context is None and not shape_said(subject):
        return Predicted(f"{what}, one short request: the least it needs", tag, low)
    return Predicted(what, tag, low, expected, high)


def _weights(subject: Subject, folder: Path) -> Predicted:
    size = held(subject, folder).bytes_of_kind("weights") / GIB
    return Predicted(f"{what_planned(subject, folder)}, weights alone", "exact", size, size, size)


def _headroom(subject: Subject, folder: Path) -> Predicted:
    card, _ = room_for(subject, folder)
    ledger = held(subject, folder)
    low, expected, high = (max(card.total_bytes / GIB - taken, 0.0) for taken in reversed(memory_range(ledger)))
    by = f"{card.total_gib:.2f} GiB of {card.name} less {what_planned(subject, folder)}"
    return Predicted(by, _least_sure(ledger), low, expected, high)


def _fits(subject: Subject, folder: Path) -> Predicted:
    card, available = room_for(subject, folder)
    ledger, room = held(subject, folder), available / GIB
    low, _, high = memory_range(ledger)
    open_ended = subject.context is None and not shape_said(subject)
    need = f"at least {low:.1f}" if open_ended else f"{low:.1f} to {high:.1f}"
    by = f"{what_planned(subject, folder)}, needs {need} GiB; {card.name} gives {room:.1f}"
    if low > room:
        return Predicted(by, _least_sure(ledger), answer=False)
    if open_ended or high > room:
        raise Unsaid(f"{by}: that decides nothing" if open_ended else f"{by}: it may or may not fit")
    return Predicted(by, _least_sure(ledger), answer=True)


def _context(subject: Subject, folder: Path) -> Predicted:
    """The longest context on a card as large as it is, and on one smaller and larger by what the ledger may be off."""
    card = find_card(said(subject.card, "no card is named"))
    longest = shapes_of(described(subject, folder), folder)["model"].max_context
    here = subject.model_copy(update={"context": min(4096, longest or 4096)})
    made = planned(here, folder)
    least, expected, most = memory_range(made.serving)
    reached = [
        _largest(made, folder, card, card.total_gib + change) for change in (least - expected, 0.0, most - expected)
    ]
    by = f"{what_planned(here.model_copy(update={'context': None}), folder)}: what one caller's context may grow to on {card.name}"
    return Predicted(by, _least_sure(made.serving), float(min(reached)), float(reached[1]), float(max(reached)))


def _largest(made: Plan, folder: Path, card: Card, total_gib: float) -> int:
    sized = card.model_copy(update={"memory": card.memory.model_copy(update={"torch_total_gib": total_gib})})
    return plan(made.fleet, sized, shapes_of(made.fleet, folder), Evidence()).limits[0].largest_context or 0


def _training_memory(subject: Subject, folder: Path) -> Predicted:
    made = planned(subject, folder)
    run = training_of(made, subject)
    low, expected, high = memory_range(run.ledger)
    return Predicted(_run(run, made, subject), _least_sure(run.ledger), low, expected, high)


def _training_hours(subject: Subject, folder: Path) -> Predicted:
    made, run, seconds = _training_time(subject, folder)
    passes = f", {subject.epochs[0]:g} to {subject.epochs[1]:g} epochs" if subject.epochs else ""
    hours = [s * subject.runs / 3600 for s in (seconds.low, seconds.expected, seconds.high)]
    share = subject.epochs[0] / subject.epochs[1] if subject.epochs else 1.0
    by = f"{_run(run, made, subject)}, {run.data.rows if run.data else 0:,} rows{passes}"
    return Predicted(by, made.speed.tag, hours[0] * share, hours[1], hours[2])


def _training_usd(subject: Subject, folder: Path) -> Predicted:
    if subject.hours is not None:
        card = find_card(said(subject.card, "no card is named"))
        if card.price is None:
            raise Unsaid(f"no price is known of {card.name}")
        low, high = (hours * subject.runs for hours in subject.hours)
        dollars = card.price.low_usd_per_hour, card.price.high_usd_per_hour
        dates = ", ".join(sorted({quote.date for quote in card.price.quotes}))
        by = f"{low:g} to {high:g} h of {card.name} at {dollars[0]:g} to {dollars[1]:g} dollars (prices of {dates})"
        return Predicted(by, "measured", low * dollars[0], None, high * dollars[1])
    made, run, _ = _training_time(subject, folder)
    if run.time is None or run.time.usd is None:
        raise Unsaid(f"no price is known of {made.card.name}")
    low, high = (usd * subject.runs for usd in run.time.usd)
    return Predicted(_run(run, made, subject), made.speed.tag, low, (low + high) / 2, high)


def _training_time(subject: Subject, folder: Path) -> tuple[Plan, TrainingPlan, Seconds]:
    said(subject.card or subject.fleet, "no card is named")
    if subject.rows is None and subject.fleet is None:
        raise Unsaid("the number of rows is not said")
    made = planned(subject, folder)
    run = training_of(made, subject)
    if run.time is None:
        raise Unsaid(f"no compute rate is known of {made.card.name}")
    return made, run, run.time.seconds


def _latency(
    subject: Subject, folder: Path, scale: float = 1.0, among: Callable[[AgentSpeed], Seconds | None] = lambda a: a.busy
) -> Predicted:
    """The time of a whole answer: of a lone caller, or `among` others (its percentile, 95 unless a fleet says otherwise)."""
    said(subject.card or subject.fleet, "no card is named")
    if not shape_said(subject):
        raise Unsaid("the length of prompts and answers is not said")
    made = planned(subject, folder)
    agent = speed_of(made, subject)
    time = agent.alone if (subject.callers or 1) == 1 and subject.fleet is None else among(agent)
    if time is None:
        raise Unsaid(f"no compute rate is known of {made.card.name}")
    by = f"{what_planned(subject, folder)}, {agent.prompt_tokens} tokens in and {agent.new_tokens} out"
    return Predicted(by, made.speed.tag, time.low * scale, time.expected * scale, time.high * scale)


def _p50(subject: Subject, folder: Path) -> Predicted:
    return _latency(subject, folder, scale=1000.0, among=lambda agent: agent.typical)


def _tokens_s(subject: Subject, folder: Path) -> Predicted:
    time = _latency(subject, folder)
    agent = speed_of(planned(subject, folder), subject)
    if agent.tokens_s is None or not (time.low and time.expected and time.high):
        raise Unsaid("no compute rate is known of the card")
    rate = agent.tokens_s
    return Predicted(time.by, time.tag, rate * time.expected / time.high, rate, rate * time.expected / time.low)


def _growth(subject: Subject, folder: Path) -> Predicted:
    raise Unsaid("the plan is of batched requests; one after the other depends on how the threads share the card")


def _quality(subject: Subject, folder: Path) -> Predicted:
    raise Unsaid("nothing predicts how good answers are: `onecard evaluate` measures it")


_QUANTITIES: dict[Quantity, Callable[[Subject, Path], Predicted]] = {
    "memory_gib": _memory,
    "weights_gib": _weights,
    "headroom_gib": _headroom,
    "training_memory_gib": _training_memory,
    "latency_s": _latency,
    "p50_ms": _p50,
    "growth": _growth,
    "tokens_s": _tokens_s,
    "training_hours": _training_hours,
    "training_usd": _training_usd,
    "context_tokens": _context,
    "fits": _fits,
    "exists": facts.exists,
    "quantizes": facts.quantizes,
    "fully_open": facts.fully_open,
    "licence": facts.licence,
    "quality": _quality,
}


def _least_sure(ledger: Ledger) -> Tag:
    return next(tag for tag in reversed(TAGS) if ledger.bytes_tagged(tag) or tag == "exact")


def _run(run: TrainingPlan, made: Plan, subject: Subject) -> str:
    on_card = f", on {made.card.name}" if subject.card or subject.fleet else ""
    return f"plan: recipe {run.recipe.name}, steps of {run.recipe.batch.step_rows} x {run.row_tokens:,} tokens{on_card}"
