from __future__ import annotations

from pathlib import Path

import pytest

from onecard.cli.plan import plan_of
from onecard.cli.plan_parts import parts_of
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.planner.plan import Plan

FILES = sorted(file for file in examples_folder().glob("*.yaml") if file.stem != "demo")
EVERY = [(file, card) for file in FILES for card in (None, "rtx-3060-12gb")]


@pytest.fixture(scope="module", params=EVERY, ids=str)
def plan(request: pytest.FixtureRequest) -> Plan:
    file, card = request.param
    return plan_of(load_fleet(file), card_id=card)


def test_parts_fill_the_card_exactly(plan: Plan) -> None:
    total = sum(part.bytes for part in parts_of(plan))
    assert total == max(plan.card.total_bytes, plan.need_bytes + plan.reserve_bytes)


def test_every_agent_has_its_adapter_and_cache_and_no_letter_is_taken_twice(plan: Plan) -> None:
    parts = parts_of(plan)
    agents = {part.name: part.bytes for part in parts if part.kind == "agent"}
    assert set(agents) == set(plan.fleet.agents)
    used = {agent.model for agent in plan.fleet.agents.values()}
    cache = sum(line.bytes for line in plan.serving.lines if line.kind == "cache" and line.owner in used)
    assert sum(agents.values()) == cache + plan.serving.bytes_of_kind("adapters")
    letters = [part.letter for part in parts if part.kind != "free"]
    assert len(set(letters)) == len(letters) and all(letters)


def test_shared_weights_stand_once_and_name_who_shares_them() -> None:
    file = next(file for file in FILES if file.stem.startswith("justnews"))
    weights = [part for part in parts_of(plan_of(load_fleet(file))) if part.kind == "weights"]
    assert [part.name for part in weights] == ["base weights"]
    assert weights[0].detail.endswith("shared by synthesizer, critic, reranker")


def test_a_model_that_only_stands_in_says_for_whom(tmp_path: Path) -> None:
    file = next(file for file in FILES if file.stem.startswith("newsreader"))
    parts = {part.name: part for part in parts_of(plan_of(load_fleet(file)))}
    assert parts["vision-small weights"].detail.endswith("stands in for newsreader")
    assert "vision-small cache" in parts
