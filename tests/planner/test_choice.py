"""Limits, preferences and what is told of those that are out, over options that were really planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.cards import find_card
from onecard.catalog.models import find_model
from onecard.evidence.claims import Measured
from onecard.fleet.schema import Fleet
from onecard.planner.choice import (
    LIMITS,
    NEVER,
    PREFERENCES,
    Choice,
    Limits,
    answer_s,
    choose,
    cost_of,
    decided_by,
    failures,
)
from onecard.planner.option import Candidate, Facts, Option, Place
from onecard.planner.shapes import shape_of_model
from onecard.planner.speed import cold_start
from onecard.planner.tryout import tried, with_speeds

GIB = 2**30
MODELS = (
    ("Qwen/Qwen3-8B", True, True, False, 16), ("microsoft/Phi-3.5-mini-instruct", True, True, False, 7),
    ("meta-llama/Llama-3.1-8B-Instruct", False, True, True, 16), ("mosaicml/mpt-7b", True, True, None, 13),
    ("google/gemma-4-31B-it", False, None, False, 60),
    ("mistralai/Mistral-7B-v0.3", True, True, False, 14), ("mistralai/Mathstral-7B-v0.1", True, True, False, None),
)  # fmt: skip


def planned() -> tuple[Option, ...]:
    """Models in three forms in the place of a writer on 24 GB, timed, two of them alike, and one that is no repository."""
    agent = {"model": "base", "deadline": {"seconds": 8, "prompt_tokens": 300, "new_tokens": 100}}
    model = {"id": MODELS[0][0], "quantization": "nf4", "context": 4096, "concurrency": 4}
    fleet = Fleet.model_validate(
        {"name": "t", "card": "rtx-3090", "models": {"base": model}, "agents": {"writer": agent}}
    )
    card = find_card("rtx-3090")
    place = Place(fleet, "writer", card, {"base": shape_of_model(find_model(MODELS[0][0]))}, cold_start(card))
    options = []
    for model_id, open_, commercial, gated, gib in MODELS:
        facts = Facts("some", open_, commercial, gated=gated, disk_bytes=gib * GIB if gib else None)
        candidate = Candidate(model_id, facts, shape_of_model(find_model(model_id)))
        options += [with_speeds(tried(place, candidate, form), place) for form in ("none", "int8", "nf4")]
    missing = Candidate("Qwen/Qwen3-8B-Instruct", Facts(missing="is no repository", instead=("Qwen/Qwen3-8B",)))
    return (*options, tried(place, missing, "none"))


OPTIONS = planned()

licences = st.sampled_from(["any", "commercial", "open"])
chances = st.floats(0, 0.999)
contexts = st.none() | st.integers(16, 200_000)
disks = st.none() | st.integers(1, 80 * GIB)
limits_drawn = st.builds(Limits, chances, licences, contexts, disks, st.booleans())
orders = st.lists(st.sampled_from(PREFERENCES), unique=True)
options_drawn = st.lists(st.sampled_from(OPTIONS), unique=True)


def names(choice: Choice) -> list[tuple[str, str]]:
    return [(option.id, option.quantization) for option in choice.ranked]


def tighter(one: Limits, other: Limits) -> Limits:
    """Of two sets of limits, the tighter of each."""

    def least(a: int | None, b: int | None) -> int | None:
        return min((x for x in (a, b) if x is not None), default=None)

    wishes = ["any", "commercial", "open"]
    return Limits(
        max(one.least_chance, other.least_chance),
        max(one.licence, other.licence, key=wishes.index),
        max((x for x in (one.context, other.context) if x is not None), default=None),
        least(one.disk_bytes, other.disk_bytes),
        one.gated and other.gated,
    )


@given(options_drawn, limits_drawn, limits_drawn)
def test_tightening_a_limit_never_admits_more(options, one, other):
    def own_context(limits: Limits) -> Limits:  # left out, a context is the fleet's
        return limits if limits.context else replace(limits, context=4096)

    loose, tight = own_context(one), tighter(own_context(one), own_context(other))
    assert set(names(choose(options, tight))) <= set(names(choose(options, loose)))


@given(st.permutations(OPTIONS), limits_drawn, orders)
def test_the_ranking_is_total_and_does_not_depend_on_the_order_given(options, limits, prefer):
    choice, again = choose(OPTIONS, limits, prefer), choose(options, limits, prefer)
    assert names(choice) == names(again) and choice.dominated == again.dominated
    assert [(e.option.id, e.failures) for e in choice.out] == [(e.option.id, e.failures) for e in again.out]
    assert len(choice.ranked) + len(choice.out) == len(OPTIONS)


@given(options_drawn, limits_drawn, orders)
def test_who_is_out_breaks_a_limit_and_who_passes_breaks_none(options, limits, prefer):
    choice = choose(options, limits, prefer)
    assert all(excluded.failures and excluded.failures[0].limit in LIMITS for excluded in choice.out)
    assert not any(failures(option, limits) for option in choice.ranked)
    assert (choice.chosen is None) == (not choice.ranked)
    assert (choice.nearest_miss is not None) == (bool(options) and not choice.ranked)


@given(options_drawn, limits_drawn, orders)
def test_a_dominated_option_is_worse_or_equal_in_everything(options, limits, prefer):
    choice = choose(options, limits, prefer)
    for number, other in choice.dominated.items():
        worse, better = choice.ranked[number], choice.ranked[other]
        assert (better.need_bytes or 0) <= (worse.need_bytes or 0) and better.parameters >= worse.parameters
        assert (better.largest_context or 0) >= (worse.largest_context or 0)
        assert (answer_s(better) or 0) <= (answer_s(worse) or 0)


@pytest.mark.parametrize(
    ("prefer", "figure"),
    [
        ("quality", lambda option: (-option.parameters, -option.bits)),
        ("speed", answer_s),
        ("memory", lambda option: option.need_bytes),
        ("context", lambda option: -option.largest_context),
        ("cost", lambda option: cost_of(option)[0]),
    ],
)
def test_each_preference_ranks_by_its_figure(prefer: Any, figure: Callable[[Option], Any]):
    ranked = choose(OPTIONS, Limits(0.0), (prefer,)).ranked
    assert len(ranked) > 5
    figures = [figure(option) for option in ranked]
    assert figures == sorted(figures)


def broken(option: Option, **limits: Any) -> dict[str, Any]:
    return {failure.limit: failure for failure in failures(option, Limits(**limits))}


def option_of(model_id: str, form: str = "nf4") -> Option:
    return next(option for option in OPTIONS if option.id == model_id and option.quantization == form)


def test_every_limit_says_by_how_much_and_what_would_have_to_give():
    llama = option_of("meta-llama/Llama-3.1-8B-Instruct")
    assert "not fully open" in broken(llama, licence="open")["licence"].what
    assert "licence" not in broken(llama, licence="commercial")
    assert broken(llama, gated=False)["access"].what.startswith("gated")
    assert "not known" in broken(option_of("mosaicml/mpt-7b"), gated=False)["access"].what
    disk = broken(llama, disk_bytes=12 * GIB)["disk"]
    assert disk.what == "4.00 GiB too much to download" and disk.share == pytest.approx(4 / 12)
    assert "not known" in broken(option_of("mistralai/Mathstral-7B-v0.1"), disk_bytes=80 * GIB)["disk"].what
    assert broken(option_of("mosaicml/mpt-7b"))["context"].what == "reaches 2,048 of 4,096 tokens"
    big = broken(option_of("google/gemma-4-31B-it", "none"))["memory"]
    assert big.what.endswith("too much") and big.share > 1
    slow = option_of("Qwen/Qwen3-8B", "int8")
    late = broken(slow, least_chance=(1 + (slow.speeds[0].probability or 0)) / 2)["deadline"]
    assert "wanted" in late.what and late.share > 0 and late.gives.startswith("a deadline of")
    [missing] = failures(OPTIONS[-1], Limits())
    assert (missing.limit, missing.share, missing.gives) == ("exists", NEVER, "take Qwen/Qwen3-8B")


def test_the_chance_asked_for_is_the_chance_of_the_deadline():
    option = option_of("Qwen/Qwen3-8B", "int8")
    chance = option.speeds[0].probability
    assert chance is not None and 0 < chance < 1
    assert "deadline" not in broken(option, least_chance=chance)
    assert "deadline" in broken(option, least_chance=chance + 1e-6)


def test_options_that_are_equal_in_everything_are_ranked_by_name():
    alike = [option_of("mistralai/Mistral-7B-v0.3"), option_of("mistralai/Mathstral-7B-v0.1")]
    choice = choose(alike, Limits())
    assert names(choice) == [("mistralai/Mathstral-7B-v0.1", "nf4"), ("mistralai/Mistral-7B-v0.3", "nf4")]
    assert decided_by(choice, *choice.ranked) is None and not choice.dominated


def test_what_was_measured_of_the_same_thing_decides_the_deadline():
    option = option_of("Qwen/Qwen3-8B")
    assert not failures(option, Limits())

    def seen(seconds: float, decides: bool) -> Option:
        measured = Measured(value=seconds, machine="rtx-3090", date="2026-11-21", record="r.json", decides=decides)
        return replace(option, measured={"latency": measured})

    assert broken(seen(9.0, True))["deadline"].what == "writer: measured 9 s of 8 s"
    assert not failures(seen(9.0, False), Limits())
    assert not failures(seen(7.9, True), Limits(least_chance=0.999))
    assert answer_s(seen(7.9, True)) == 7.9


def test_quality_is_measured_only_where_all_were_measured():
    def measured(option: Option, overlap: float) -> Option:
        seen = Measured(value=overlap, machine="m", date="2026-11-21", record="e.json")
        return replace(option, measured={"quality": seen})

    small, large = option_of("microsoft/Phi-3.5-mini-instruct"), option_of("Qwen/Qwen3-8B")
    by_size = choose([measured(small, 0.9), large], Limits(0.0))
    assert not by_size.measured_quality and by_size.chosen is large
    by_measure = choose([measured(small, 0.9), measured(large, 0.8)], Limits(0.0))
    assert by_measure.measured_quality and by_measure.ranked[0].id == small.id
    assert decided_by(by_measure, *by_measure.ranked) == "quality"


def test_the_nearest_miss_can_be_mended_and_misses_least():
    small, large = option_of("microsoft/Phi-3.5-mini-instruct"), option_of("Qwen/Qwen3-8B")
    choice = choose([large, OPTIONS[-1], small], Limits(0.0, disk_bytes=6 * GIB))
    assert choice.nearest_miss is not None and choice.nearest_miss.option is small
    hopeless = choose([OPTIONS[-1], small], Limits(0.0, disk_bytes=1))
    assert hopeless.nearest_miss is not None and hopeless.nearest_miss.option is small
