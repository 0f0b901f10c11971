"""Choosing between options: hard limits first, then preferences in the order given. Whoever is out is told by how much.

A limit that cannot be judged of a candidate (its licence is not known) counts as not kept; one that cannot be judged on this card at
all (no compute rate, so no times) excludes nobody and is told. No quality is invented: where none was measured, size stands for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from onecard.catalog.units import format_bytes
from onecard.planner.chance import limit as time_within
from onecard.planner.option import Option
from onecard.planner.requests import AgentSpeed

LimitName = Literal[
    "exists", "modality", "licence", "access", "disk", "form", "context", "memory", "training", "deadline"
]  # fmt: skip
LIMITS: tuple[LimitName, ...] = get_args(LimitName)
Preference = Literal["quality", "speed", "memory", "context", "cost"]
PREFERENCES: tuple[Preference, ...] = get_args(Preference)
Wish = Literal["open", "commercial", "any"]

# What is asked for first, if nothing else is said; being faster than a deadline is worth least.
USUAL: tuple[Preference, ...] = ("quality", "memory", "speed")
# The expected time must be within the deadline. More would exclude what is only uncertain: before a card is calibrated, ranges
# reach from 0.6 to 1.6 times the expected time, and 0.95 would ask for two thirds of the deadline.
LEAST_CHANCE = 0.5
PROXY = (
    "assumed: more parameters first, then more bits a weight; at equal bytes more parameters in 4 bits did better than "
    "fewer in 16 (arXiv:2212.09720)"
)
NEVER = inf  # the shortfall of what no change of a figure mends


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep. `context` is the fleet's where it is not asked for; None elsewhere: no limit."""

    least_chance: float = LEAST_CHANCE
    licence: Wish = "any"
    context: int | None = None
    disk_bytes: int | None = None
    gated: bool = True


@dataclass(frozen=True)
class Failure:
    """A limit that is not kept: by how much in words, as a share of the limit (NEVER: no figure), and what would have to give."""

    limit: LimitName
    what: str
    share: float
    gives: str


@dataclass(frozen=True)
class Excluded:
    option: Option
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Choice:
    """The options that keep every limit, the best first, and those that do not. `order` is what they were ranked by.

    `measured_quality`: quality was measured for all that are ranked; otherwise PROXY stands for it. `dominated` are numbers of ranked
    options that another one beats or equals in everything a person could prefer, and beats in something.
    """

    ranked: tuple[Option, ...]
    out: tuple[Excluded, ...]
    order: tuple[Preference, ...]
    measured_quality: bool
    dominated: dict[int, int]

    @property
    def chosen(self) -> Option | None:
        return self.ranked[0] if self.ranked else None

    @property
    def nearest_miss(self) -> Excluded | None:
        """Where nothing passes: what a change of figures mends before what none does, then fewest limits broken, and by least."""
        return None if self.ranked or not self.out else min(self.out, key=how_far)


def how_far(out: Excluded) -> tuple[bool, bool, int, float, str]:
    """How far an excluded option is from passing; the smallest is the nearest miss. One without speeds may fail in more."""
    farthest = max(failure.share for failure in out.failures)
    return farthest == NEVER, not out.option.speeds, len(out.failures), farthest, out.option.id


def failures(option: Option, limits: Limits) -> tuple[Failure, ...]:
    """Every limit the option does not keep, in the order of LIMITS. A deadline is judged only once the option has speeds."""
    return tuple(_failures(option, limits))


def choose(options: Iterable[Option], limits: Limits, prefer: Sequence[Preference] = ()) -> Choice:
    """Limits, then preferences in order; the same options give the same choice in whatever order they come."""
    judged = [(option, failures(option, limits)) for option in options]
    passing = [option for option, broken in judged if not broken]
    out = [Excluded(option, broken) for option, broken in judged if broken]
    order = tuple(dict.fromkeys((*prefer, *USUAL)))
    measured = bool(passing) and all("quality" in option.measured for option in passing)
    ranked = tuple(sorted(passing, key=lambda o: (*(_rank(o, p, measured) for p in order), o.id, o.quantization)))
    out.sort(key=lambda e: (LIMITS.index(e.failures[0].limit), e.option.id, e.option.quantization))
    return Choice(ranked, tuple(out), order, measured, _dominated(ranked, measured))


def decided_by(choice: Choice, first: Option, second: Option) -> Preference | None:
    """The first preference in which two options differ; None when they differ in name only."""
    for preference in choice.order:
        if _rank(first, preference, choice.measured_quality) != _rank(second, preference, choice.measured_quality):
            return preference
    return None


def answer_s(option: Option) -> float | None:
    """Seconds within which the agent's percentile is answered: measured where that was of the same thing, else expected."""
    seen = option.measured.get("latency")
    if seen is not None and seen.decides:
        return float(seen.value)
    return option.speed.busy.expected if option.speed and option.speed.busy else None


def cost_of(option: Option) -> tuple[float, str] | None:
    """What the option costs beside the card: dollars of all its training runs, else of a thousand answers; without a price, hours."""
    runs = [run.time for run in option.trainings if run.time]
    if runs:
        priced = [run.median.expected_usd for run in runs if run.median]
        if len(priced) == len(runs):
            return sum(priced), "USD of training"
        return sum(run.seconds.expected for run in runs) / 3600, "hours of training"
    hourly = option.speed.requests_per_hour if option.speed else None
    return (1000 / hourly.expected, "hours a thousand answers") if hourly and hourly.expected else None


def _rank(option: Option, preference: Preference, measured: bool) -> tuple[float, ...]:
    """The smaller the better."""
    if preference == "quality":
        return (-float(option.measured["quality"].value),) if measured else (-option.parameters, -option.bits)
    if preference == "speed":
        seconds = answer_s(option)
        return (inf if seconds is None else seconds,)
    if preference == "memory":
        return (inf if option.need_bytes is None else option.need_bytes,)
    if preference == "context":
        return (-(option.largest_context or 0),)
    cost = cost_of(option)
    return (inf if cost is None else cost[0],)


def _dominated(ranked: Sequence[Option], measured: bool) -> dict[int, int]:
    """Number of an option -> number of the first that is at least as good in every preference and better in one."""
    ranks = [[_rank(option, preference, measured) for preference in PREFERENCES] for option in ranked]
    found: dict[int, int] = {}
    for number, own in enumerate(ranks):
        for other, theirs in enumerate(ranks):
            if theirs != own and all(a <= b for a, b in zip(theirs, own, strict=True)):
                found[number] = other
                break
    return found


def _failures(option: Option, limits: Limits) -> Iterator[Failure]:
    facts = option.candidate.facts
    if facts.missing is not None:
        yield Failure("exists", facts.missing, NEVER, f"take {' or '.join(facts.instead)}")
        return
    if option.images_wanted and option.candidate.shape is not None and not option.candidate.shape.takes_images:
        yield Failure("modality", "takes no images", NEVER, "a model that takes images")
    yield from _terms(option, limits)
    if option.refused is not None:
        yield Failure("form", option.refused, NEVER, "another form, or another engine in the fleet file")
        return
    yield from _context(option, limits)
    yield from _memory(option)
    for speed in option.speeds:
        yield from _deadline(option, speed, limits.least_chance)


def _terms(option: Option, limits: Limits) -> Iterator[Failure]:
    """Licence, access and download."""
    facts = option.candidate.facts
    if limits.licence != "any":
        allowed = facts.fully_open if limits.licence == "open" else facts.commercial
        if not allowed:
            asked = {"open": "fully open", "commercial": "for commercial use"}[limits.licence]
            named = (
                f"{facts.licence} is not {asked}" if facts.licence and allowed is False else f"not known to be {asked}"
            )
            yield Failure("licence", named, NEVER, "--licence any")
    if not limits.gated and facts.gated is not False:
        said = "gated: its owner must let you in" if facts.gated else "not known whether it is gated"
        yield Failure("access", said, NEVER, "leave --no-gated out")
    if limits.disk_bytes is not None:
        size = option.download.bytes
        if size is None:
            yield Failure("disk", "size of the download not known", NEVER, "leave --disk out")
        elif size > limits.disk_bytes:
            over = f"{format_bytes(size - limits.disk_bytes)} too much to download"
            yield Failure("disk", over, _share(size, limits.disk_bytes), f"--disk {size / 2**30:.1f}GiB")


def _context(option: Option, limits: Limits) -> Iterator[Failure]:
    wanted, reach = limits.context or option.wanted_context, option.reach
    if reach is not None and reach < wanted:
        yield Failure(
            "context", f"reaches {reach:,} of {wanted:,} tokens", wanted / reach - 1, f"a context of {reach:,}"
        )
    elif option.largest_context is not None and option.largest_context < wanted:
        most = option.largest_context
        yield Failure(
            "context", f"{most:,} of {wanted:,} tokens fit", wanted / max(most, 1) - 1, f"a context of {most:,}"
        )
    rows = max((run.row_tokens for run in option.trainings if run.data), default=0)
    if reach is not None and rows > reach:
        yield Failure(
            "context", f"training rows of {rows:,} tokens, it reaches {reach:,}", rows / reach - 1, "shorter rows"
        )


def _memory(option: Option) -> Iterator[Failure]:
    room = option.available_bytes
    if option.need_bytes is not None and option.need_bytes > room:
        over = format_bytes(option.need_bytes - room)
        yield Failure("memory", f"{over} too much", _share(option.need_bytes, room), f"{over} more memory")
    for run in option.trainings:
        if not run.fits:
            over = format_bytes(-run.headroom_bytes)
            share = _share(run.peak_bytes, run.available_bytes)
            yield Failure("training", f"training {run.agent}: {over} too much", share, f"{over} more memory to train")


def _deadline(option: Option, speed: AgentSpeed, least: float) -> Iterator[Failure]:
    if speed.deadline_s is None:
        return
    seen = option.measured.get("latency") if speed.agent == option.agent else None
    if seen is not None and seen.decides:
        if seen.value > speed.deadline_s:
            late = f"{speed.agent}: measured {seen.value:.3g} s of {speed.deadline_s:g} s"
            yield Failure("deadline", late, _share(seen.value, speed.deadline_s), f"a deadline of {seen.value:.3g} s")
        return
    if speed.probability is None or speed.busy is None or speed.probability >= least:
        return
    needed = time_within(speed.busy, least)
    odds = "under 1%" if speed.probability < 0.01 else f"{speed.probability:.0%}"
    late = f"{speed.agent}: {odds} in time, {least:.0%} wanted, {needed - speed.deadline_s:.3g} s late"
    yield Failure("deadline", late, _share(needed, speed.deadline_s), f"a deadline of {needed:.3g} s for {speed.agent}")


def _share(has: float, may: float) -> float:
    return has / may - 1 if may > 0 else inf
