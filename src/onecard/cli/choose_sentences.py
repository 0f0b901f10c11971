"""The choice in words: which limits hold, what the columns mean, why the first is the first, who is out, and the nearest miss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from onecard.catalog.units import GIB, format_bytes
from onecard.cli.choose_table import Row, cost_words, form_of_row
from onecard.cli.plan_times import duration
from onecard.planner.advice import advise
from onecard.planner.choice import (
    LEAST_CHANCE,
    LIMITS,
    PROXY,
    Choice,
    Excluded,
    Limits,
    Preference,
    answer_s,
    decided_by,
)
from onecard.planner.option import Option, Place


def limit_words(place: Place, limits: Limits) -> str:
    """Every limit that holds, and why the chance asked for is what it is."""
    said = [f"fits {place.available_bytes / GIB:.2f} GiB" + (", training too" if _recipes(place) else "")]
    promised = [place.fleet.agents[name].deadline for name in place.moving]
    if any(promised):
        least = limits.least_chance
        why = " (expected to be in time)" if least == LEAST_CHANCE else ""
        own = promised[0]
        of_it = f"{own.seconds:g} s for {own.percentile:g}% of requests" if own else "deadlines"
        others = " and the others' deadlines" if own and sum(d is not None for d in promised) > 1 else ""
        said.append(f"{of_it}{others} with a chance of {least:.0%} or more{why}")
    said.append(f"context {limits.context or place.fleet.models[place.key].context:,}")
    said += ["takes images"] if place.images else []
    said += [f"licence {limits.licence}"] if limits.licence != "any" else []
    said += [f"download up to {format_bytes(limits.disk_bytes)}"] if limits.disk_bytes else []
    said += ["not gated"] if not limits.gated else []
    return "limits: " + "; ".join(said)


def notes_of(choice: Choice, rows: Sequence[Row], place: Place) -> Iterator[str]:
    """What the columns and marks mean, as far as they are shown."""
    order = ", then ".join(choice.order)
    basis = "measured: overlap with the suite's references" if choice.measured_quality else PROXY
    yield f"ranked by {order}. Quality is {basis}."
    first = rows[0].option
    said = ["All figures are predicted. GiB: the model with its cache, work, adapters and process; left: of the card"]
    if first.speed and first.speed.busy:
        shape = f"{first.speed.prompt_tokens} tokens in and {first.speed.new_tokens} out"
        what = f"busy: {first.speed.percentile:g}% of requests ({shape}"
        what += "" if first.speed.shape_tag == "exact" else ", assumed"
        said.append(f"{what}) are answered in that, {_callers(first.speed.callers)} asking")
    said.append("context: most that fits with so many callers")
    if any(row.option.download.tag == "assumed" and row.option.download.bytes for row in rows):
        said.append("~: reckoned from the weights")
    if any(row.present for row in rows):
        said.append("*: as the fleet is now")
    if any(row.dominated_by for row in rows):
        said.append("4<2: 2 is as good as 4 or better in all of quality, speed, memory, context, cost")
    vllm = [str(row.number) for row in rows if row.option.engine == "vllm"]
    if vllm:
        said.append("vLLM answers" if len(vllm) == len(rows) else f"vLLM answers in {', '.join(vllm)}")
    yield "; ".join(said) + "."
    if any(row.option.measured for row in rows):
        yield "Measured with *: on another card, engine or length of answers, or memory for requests of unknown length: it decides nothing."
    if len(rows) < len(choice.ranked):
        yield f"{len(choice.ranked) - len(rows)} more pass: --all shows them."
    if first.speed and first.speed.deadline_s and first.speed.probability is None:
        yield f"The deadline was not judged: no compute rate is known of {place.card.name}."
    if len(place.fleet.models) > 1:
        yield "Speeds hold while the other models of the card are idle."


def chosen_sentence(choice: Choice, place: Place) -> Text:
    """Which one, and what decided between it and the next."""
    best = choice.ranked[0]
    said = Text.assemble(("chosen: ", "bold"), (f"{best.id} in {_form(best)}", "bold green"))
    others = [name for name in place.moving if name != place.agent]
    if others:
        said.append(f", which then also answers for {', '.join(others)}")
    said.append(". ")
    if len(choice.ranked) == 1:
        return said.append("Nothing else passes every limit.")
    second = choice.ranked[1]
    said.append(f"It beat {_beaten(choice, best, second)}")
    if second.id == best.id:
        other = next((option for option in choice.ranked if option.id != best.id), None)
        if other is not None:
            said.append(f", and {_beaten(choice, best, other)}")
    return said.append(".")


def _beaten(choice: Choice, best: Option, other: Option) -> str:
    named = f"{other.id} in {_form(other)}" if other.id != best.id else f"itself in {_form(other)}"
    by = decided_by(choice, best, other)
    if by is None:
        return f"{named} by name only, as they are equal in all that counts"
    assumed = " (assumed from size)" if by == "quality" and not choice.measured_quality else ""
    return f"{named} by {by}{assumed}, {difference(by, best, other, choice)}"


def difference(by: Preference, best: Option, second: Option, choice: Choice) -> str:
    """The two figures that decided, the better first."""
    if by == "quality" and choice.measured_quality:
        return f"{best.measured['quality'].value:.3f} against {second.measured['quality'].value:.3f}"
    if by == "quality" and best.parameters != second.parameters:
        return f"{best.parameters / 1e9:.2f}B parameters against {second.parameters / 1e9:.2f}B"
    if by == "quality":
        return f"{best.bits:g} bits a weight against {second.bits:g}"
    if by == "speed":
        return f"{_seconds(best)} against {_seconds(second)}"
    if by == "memory":
        return f"{format_bytes((second.need_bytes or 0) - (best.need_bytes or 0))} less"
    if by == "context":
        return f"{best.largest_context or 0:,} tokens against {second.largest_context or 0:,}"
    return f"{cost_words(best)} against {cost_words(second)}"


def terms_of(option: Option) -> Iterator[str]:
    """What a person agrees to or downloads beside the figures."""
    facts = option.candidate.facts
    if facts.licence and not facts.fully_open:
        yield f"licence {facts.licence}: {facts.licence_reason}"
    if facts.gated:
        yield "gated: its owner must let you in first"
    if facts.disk_caution and option.download.id == option.id:
        yield f"download: {facts.disk_caution}"


def out_sentence(choice: Choice) -> str:
    """How many each limit excluded, counted by the first that each breaks, with the least and the most it is missed by."""
    parts = []
    for limit in LIMITS:
        broken = [out.failures[0] for out in choice.out if out.failures[0].limit == limit]
        if broken:
            parts.append(f"{len(broken)} by {limit}")
    return f"out, by the first limit each breaks: {', '.join(parts)}."


def miss_sentences(choice: Choice, place: Place, limits: Limits) -> Iterator[Text]:
    """The nearest miss, and what would have to give."""
    miss = choice.nearest_miss
    if miss is None:
        return
    said = Text.assemble(
        ("nothing passes. ", "bold red"), "Nearest: ", (f"{miss.option.id} in {_form(miss.option)}", "bold")
    )
    if miss.failures[0].limit == "exists":
        said = Text.assemble(("nothing passes. ", "bold red"), (miss.option.id, "bold"))
        yield said.append(f" {miss.failures[0].what}")
        return
    yield said.append(": " + "; ".join(failure.what for failure in miss.failures))
    gives = [failure.gives for failure in miss.failures]
    yield Text.assemble(("what would have to give: ", "bold"), "; ".join(dict.fromkeys(gives)))
    way = _way_to_fit(miss, place)
    if way:
        yield Text(f"it fits with: {way}")


def _way_to_fit(miss: Excluded, place: Place) -> str | None:
    """The first advice of the planner where serving does not fit."""
    shape = miss.option.candidate.shape
    if shape is None or "memory" not in {failure.limit for failure in miss.failures}:
        return None
    advice = advise(miss.option.fleet, place.room(shape))
    return "; ".join(change.text for change in advice[0].changes) if advice else None


def _callers(count: int) -> str:
    return f"{count} callers" if count > 1 else "one caller"


def _recipes(place: Place) -> bool:
    return any(place.fleet.agents[name].recipe for name in place.moving)


def _form(option: Option) -> str:
    name = form_of_row(option)
    return "16 bits" if name == "16-bit" else name


def _seconds(option: Option) -> str:
    seconds = answer_s(option)
    return "unknown" if seconds is None else duration(seconds)
