from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from onecard.catalog.cards import custom_card, find_card
from onecard.fleet.schema import Deadline, Fleet
from onecard.planner.requests import agent_speed, judge
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import Seconds, cold_start

MakeFleet = Callable[..., Fleet]
H200 = cold_start(find_card("h200-sxm"))


def deadline(seconds: float) -> Deadline:
    return Deadline(seconds=seconds, prompt_tokens=300, new_tokens=200)


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(11, "meets"), (10, "meets"), (7, "unclear"), (5, "unclear"), (4, "misses")]
)
def test_a_deadline_is_judged_by_both_ends_of_the_range(seconds: float, verdict: str) -> None:
    assert judge(Seconds(5, 7, 10), deadline(seconds)) == verdict


def test_without_a_deadline_or_a_time_nothing_is_judged() -> None:
    assert judge(Seconds(1, 2, 3), None) == "unknown"
    assert judge(None, deadline(1)) == "unknown"


def test_the_shape_is_the_deadlines_or_assumed(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    promised = make_fleet(agent={"deadline": {"seconds": 60, "prompt_tokens": 300, "new_tokens": 200}})
    speed = agent_speed(promised, "writer", {"base": mistral}, H200)
    assert (speed.prompt_tokens, speed.new_tokens, speed.shape_tag) == (300, 200, "exact")
    assert speed.margin_s is not None
    assert speed.busy is not None
    assert speed.margin_s == pytest.approx(60 - speed.busy.expected)
    free = agent_speed(make_fleet(context=256), "writer", {"base": mistral}, H200)
    assert (free.prompt_tokens, free.new_tokens, free.shape_tag) == (128, 128, "assumed")
    assert free.verdict == "unknown"


def test_a_busy_model_answers_later_than_an_idle_one(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    speed = agent_speed(make_fleet(concurrency=16), "writer", {"base": mistral}, H200)
    assert speed.alone is not None
    assert speed.busy is not None
    assert speed.busy.expected > speed.alone.expected
    assert speed.alone.low < speed.alone.expected < speed.alone.high


def test_an_adapter_costs_time_and_scoring_costs_one_token(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    bare = agent_speed(make_fleet(), "writer", {"base": mistral}, H200)
    adapted = agent_speed(make_fleet(agent={"adapter": "a@v0001"}), "writer", {"base": mistral}, H200)
    scoring = agent_speed(make_fleet(agent={"task": "rerank"}), "writer", {"base": mistral}, H200)
    assert bare.itl is not None
    assert adapted.itl is not None
    assert adapted.itl.expected > bare.itl.expected
    assert scoring.new_tokens == 1


def test_a_card_without_a_compute_rate_can_only_time_decoding(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    speed = agent_speed(make_fleet(), "writer", {"base": mistral}, cold_start(custom_card(24, 900)))
    assert speed.itl is not None
    assert speed.ttft is speed.alone is speed.busy is None
    assert speed.verdict == "unknown"


def test_a_remote_model_is_not_predicted(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    fleet = make_fleet(engine="remote", url="http://elsewhere", agent={"deadline": deadline(5).model_dump()})
    speed = agent_speed(fleet, "writer", {"base": mistral}, H200)
    assert speed.itl is speed.busy is speed.tokens_s is None
    assert speed.verdict == "unknown"


def test_faster_memory_never_answers_later(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    slow = agent_speed(make_fleet(), "writer", {"base": mistral}, replace(H200, bandwidth_gbs=500))
    fast = agent_speed(make_fleet(), "writer", {"base": mistral}, H200)
    assert slow.busy is not None
    assert fast.busy is not None
    assert fast.busy.expected < slow.busy.expected
