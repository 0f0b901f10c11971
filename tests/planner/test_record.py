from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from onecard.catalog.cards import find_card
from onecard.fleet.schema import Fleet
from onecard.planner.plan import Evidence, plan
from onecard.planner.record import plan_record
from onecard.planner.shapes import ModelShape
from onecard.planner.training_run import DataFacts

MakeFleet = Callable[..., Fleet]
ROWS = DataFacts(800, 200_000, 400, "assumed", "rows.jsonl: characters / 4")


def record(make_fleet: MakeFleet, mistral: ModelShape, card: str = "a10g", seconds: float = 30) -> dict[str, Any]:
    deadline = {"seconds": seconds, "prompt_tokens": 60, "new_tokens": 200, "percentile": 90}
    fleet = make_fleet(agent={"recipe": {}, "deadline": deadline, "adapter": "a@production"})
    made = plan(fleet, find_card(card), {"base": mistral}, Evidence(data={"writer": ROWS}))
    found = plan_record(made)
    assert json.loads(json.dumps(found)) == found
    return found


def test_an_agents_verdict_can_be_checked_from_the_record(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    found = record(make_fleet, mistral)
    agent, rule = found["agents"][0], found["chances"]
    assert agent["percentile"] == 90
    assert agent["margin_s"] == pytest.approx(30 - agent["busy"]["expected"])
    assert agent["probability"] >= rule["meets_from_probability"]
    assert agent["verdict"] == "meets"
    assert agent["because"].startswith("90% of requests within 30 s with 4 callers:")
    assert (
        agent["requests_per_hour"]["low"] < agent["requests_per_hour"]["expected"] < agent["requests_per_hour"]["high"]
    )
    late = record(make_fleet, mistral, seconds=0.1)["agents"][0]
    assert late["probability"] <= rule["misses_to_probability"]
    assert late["verdict"] == "misses"


def test_every_dollar_stands_beside_its_quote(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    found = record(make_fleet, mistral)
    time = found["trainings"][0]["time"]
    for which in ("cheapest", "median"):
        quote = time[which]["quote"]
        assert quote == found["price"][which]
        assert quote["provider"]
        assert quote["date"]
        assert quote["source"]
        assert time[which]["expected_usd"] == pytest.approx(quote["usd_per_hour"] * time["seconds"]["expected"] / 3600)
    assert found["price"]["cheapest"]["usd_per_hour"] <= found["price"]["median"]["usd_per_hour"]
    assert record(make_fleet, mistral, "rx-7900-xtx")["price"] is None


def test_a_run_says_by_when_it_ends_how_probably(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    time = record(make_fleet, mistral)["trainings"][0]["time"]
    by = {entry["probability"]: entry["seconds"] for entry in time["finish_by"]}
    assert by[0.5] == pytest.approx(time["seconds"]["expected"])
    assert by[0.95] == pytest.approx(time["seconds"]["high"])
    assert by[0.5] < by[0.8] < by[0.95]
    assert "characters / 4" in time["source"]
