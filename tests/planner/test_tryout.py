"""A candidate tried in an agent's place: what moves with it, which forms are sensible, what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from onecard.catalog.cards import Card, find_card
from onecard.catalog.models import find_model
from onecard.fleet.schema import Fleet
from onecard.planner.engine_facts import Taken
from onecard.planner.option import Candidate, Copy, Facts, Place
from onecard.planner.plan import Evidence, plan
from onecard.planner.shapes import shape_of_model
from onecard.planner.speed import cold_start
from onecard.planner.training_run import DataFacts
from onecard.planner.tryout import sensible_forms, tried, with_speeds

QWEN, MPT, FALCON, GPT_OSS = "Qwen/Qwen3-8B", "mosaicml/mpt-7b", "tiiuae/falcon-7b", "openai/gpt-oss-20b"
DEADLINE = {"seconds": 6, "prompt_tokens": 300, "new_tokens": 50, "percentile": 95}
ROWS = DataFacts(1000, 200_000, 400, "exact", "counted")


def candidate(model_id: str, **facts: Any) -> Candidate:
    return Candidate(model_id, Facts(**facts), shape_of_model(find_model(model_id)))


@pytest.fixture
def place(make_fleet: Callable[..., Fleet]) -> Callable[..., Place]:
    """The writer of a Mistral-7B in nf4 on an RTX 4090, with a critic on the same model; keywords go to the model."""

    def make(card: Card | None = None, recipe: dict[str, Any] | None = None, **model: Any) -> Place:
        agent = {"deadline": DEADLINE, "adapter": "a@production", "recipe": recipe or {"name": "r", "data": "d"}}
        fleet = make_fleet(agent=agent, **model)
        critic = fleet.agents["writer"].model_copy(update={"recipe": None, "adapter": None})
        fleet = fleet.model_copy(update={"agents": {**fleet.agents, "critic": critic}})
        chosen = card or find_card("rtx-4090")
        shapes = {"base": shape_of_model(find_model(fleet.models["base"].id))}
        return Place(fleet, "writer", chosen, shapes, cold_start(chosen), {"writer": ROWS})

    return make


@pytest.mark.parametrize("context", [None, Taken(2**30, "measured", "seen")])
def test_an_option_says_what_the_plan_of_that_fleet_says(place, context: Taken | None):
    here = replace(place(), context=context)
    option = with_speeds(tried(here, candidate(QWEN), "int8"), here)
    made = plan(
        option.fleet,
        here.card,
        {"base": shape_of_model(find_model(QWEN))},
        Evidence(data={"writer": ROWS}, context=context),
    )
    assert option.need_bytes == made.need_bytes and option.headroom_bytes == made.headroom_bytes
    assert option.largest_context == made.limits[0].largest_context
    assert [speed.busy for speed in option.speeds] == [agent.busy for agent in made.agents]
    assert option.training is not None and option.training.peak_bytes == made.trainings[0].peak_bytes
    assert option.training.time == made.trainings[0].time


def test_other_agents_of_the_model_move_with_it(place):
    option = with_speeds(tried(place(), candidate(QWEN), "nf4"), place())
    assert [speed.agent for speed in option.speeds] == ["writer", "critic"]
    assert option.fleet.models["base"].id == QWEN


def test_recipes_follow_the_base_in_targets_and_form(place):
    here = place(recipe={"name": "r", "data": "d", "lora": {"targets": ["q_proj", "v_proj"]}})
    option = tried(here, candidate(MPT), "int8")
    recipe = option.fleet.agents["writer"].recipe
    assert recipe is not None and recipe.lora.targets == "all-linear" and recipe.base_quantization == "int8"
    assert any("lora.targets: all-linear, base_quantization: int8" in note for note in option.notes)
    kept = tried(here, candidate(QWEN), "nf4").fleet.agents["writer"].recipe
    assert kept is not None and kept.lora.targets == ("q_proj", "v_proj")


def test_an_adapter_that_answers_on_other_weights_is_told(place):
    [note, *_] = tried(place(), candidate(QWEN), "fp8").notes
    assert "learns on nf4 and answers on fp8" in note


def test_sensible_forms(place):
    awq = {"copies": {"awq": Copy("Qwen/Qwen3-8B-AWQ", None, True)}}
    assert sensible_forms(place(), candidate(QWEN)) == ("none", "int8", "nf4", "fp8")
    assert sensible_forms(place(find_card("rtx-3090")), candidate(QWEN, **awq)) == ("none", "int8", "nf4", "awq")
    assert sensible_forms(place(), candidate(FALCON)) == ("none", "fp8")  # its layers are no plain Linears
    assert sensible_forms(place(), candidate(GPT_OSS)) == ("none",)  # published in 4 bits
    assert sensible_forms(place(engine="vllm", quantization="none"), candidate(QWEN, **awq)) == ("none", "awq", "fp8")


def test_a_form_the_engine_cannot_hold_is_refused_with_the_reason(place):
    option = tried(place(engine="local"), candidate(QWEN), "awq")
    assert option.refused == "the local engine cannot hold awq" and option.ledger is None
    assert with_speeds(option, place()) is option


def test_a_short_model_is_planned_with_what_it_reaches(place):
    option = tried(place(context=4096), candidate(MPT), "nf4")
    assert (option.fleet.models["base"].context, option.wanted_context, option.reach) == (2048, 4096, 2048)


def test_downloads_are_of_a_ready_copy_or_of_the_published_weights(place):
    copies = {"awq": Copy("org/ready", 5 * 10**9, True), "gptq": Copy("org/unseen", None, False)}
    known = candidate(QWEN, disk_bytes=16 * 10**9, disk_source="hub", copies=copies)
    here = place(quantization="none")
    assert tried(here, known, "nf4").download.bytes == 16 * 10**9
    ready = tried(here, known, "awq").download
    assert (ready.id, ready.bytes, ready.tag) == ("org/ready", 5 * 10**9, "measured")
    reckoned = tried(here, known, "gptq").download
    assert reckoned.tag == "assumed" and "nobody saw" in reckoned.source
    assert reckoned.bytes is not None and 4 * 10**9 < reckoned.bytes < 8 * 10**9
    assert tried(here, candidate(QWEN), "awq").download.bytes is None


def test_memory_of_the_option_leaves_other_models_out(place):
    here = place()
    two = here.fleet.model_copy(update={"models": {**here.fleet.models, "other": here.fleet.models["base"]}})
    both = Place(two, "writer", find_card("h200"), {**here.shapes, "other": here.shapes["base"]}, here.speed)
    option = tried(both, candidate(QWEN), "nf4")
    assert option.own_bytes is not None and option.need_bytes is not None
    assert 4 * 2**30 < option.need_bytes - option.own_bytes < option.need_bytes / 2 + 2**30
