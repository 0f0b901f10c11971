from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.catalog.cards import custom_card, find_card
from onecard.errors import InputError
from onecard.fleet.schema import Deadline, Fleet
from onecard.planner.ledger import Tag
from onecard.planner.requests import AgentSpeed, agent_speed, judge
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import Seconds, cold_start

MakeFleet = Callable[..., Fleet]
H200 = cold_start(find_card("h200-sxm"))


def deadline(seconds: float) -> Deadline:
    return Deadline(seconds=seconds, prompt_tokens=300, new_tokens=200)


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [(11, "meets"), (10, "meets"), (9.9, "unclear"), (5.1, "unclear"), (5, "misses"), (4, "misses")],
)
def test_a_deadline_is_met_from_95_percent_on_and_missed_up_to_5(seconds: float, verdict: str) -> None:
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
    assert speed.typical is not None
    assert speed.typical.expected < speed.busy.expected


def test_the_probability_says_how_far_the_deadline_lies_in_the_range(
    make_fleet: MakeFleet, mistral: ModelShape
) -> None:
    def at(seconds: float) -> AgentSpeed:
        agent = {"deadline": {"seconds": seconds, "prompt_tokens": 300, "new_tokens": 200}}
        return agent_speed(make_fleet(agent=agent), "writer", {"base": mistral}, H200)

    busy = at(1).busy
    assert busy is not None
    ends = [at(busy.low), at(busy.expected), at(busy.high)]
    assert [speed.probability for speed in ends] == pytest.approx([0.05, 0.5, 0.95])
    assert [speed.verdict for speed in ends] == ["misses", "unclear", "meets"]
    assert ends[1].margin_s == pytest.approx(0, abs=1e-9)
    assert ends[1].because is not None
    assert "probability 50.0%" in ends[1].because
    assert f"95% of requests within {busy.expected:g} s with 4 callers" in ends[1].because


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.floats(1, 99.9), st.sampled_from([1, 3, 12]))
def test_more_time_never_makes_a_deadline_less_probable(
    make_fleet: MakeFleet, mistral: ModelShape, one: float, other: float, percentile: float, callers: int
) -> None:
    def probability(seconds: float, percent: float = percentile) -> float:
        shape = {"prompt_tokens": 200, "new_tokens": 30}
        agent = {"deadline": {"seconds": seconds, "percentile": percent, **shape}}
        found = agent_speed(make_fleet(agent=agent, concurrency=callers), "writer", {"base": mistral}, H200).probability
        assert found is not None
        return found

    assert 0 <= probability(min(one, other)) <= probability(max(one, other)) <= 1
    assert probability(one, 99.9) <= probability(one) <= probability(one, 1)


def test_more_callers_make_it_less_probable(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    agent = {"deadline": {"seconds": 7, "prompt_tokens": 300, "new_tokens": 200}}
    fleets = [make_fleet(agent=agent, concurrency=callers) for callers in (1, 2, 4, 8, 32, 128, 1024, 4096)]
    speeds = [agent_speed(fleet, "writer", {"base": mistral}, H200) for fleet in fleets]
    chances = [speed.probability or 0 for speed in speeds]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.5 > chances[-1]
    waiting = [
        agent_speed(fleets[2], "writer", {"base": mistral}, H200, callers=callers).probability or 0
        for callers in (1, 4, 8, 40)
    ]
    assert waiting == sorted(waiting, reverse=True)
    assert waiting[1] == chances[2]
    assert waiting[1] > waiting[2]


def test_a_measured_machine_makes_the_answer_surer(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    def probability(seconds: float, tag: Tag) -> float:
        agent = {"deadline": {"seconds": seconds, "prompt_tokens": 300, "new_tokens": 200}}
        found = agent_speed(make_fleet(agent=agent), "writer", {"base": mistral}, replace(H200, tag=tag)).probability
        assert found is not None
        return found

    busy = agent_speed(make_fleet(agent={"deadline": deadline(1).model_dump()}), "writer", {"base": mistral}, H200).busy
    assert busy is not None
    late, early = 1.2 * busy.expected, 0.8 * busy.expected
    assert probability(late, "measured") > probability(late, "assumed") > 0.5
    assert probability(early, "measured") < probability(early, "assumed") < 0.5


def two_agents(**writer: Any) -> Fleet:
    return Fleet.model_validate(
        {
            "name": "two",
            "card": "h200-sxm",
            "models": {"base": {"id": "mistralai/Mistral-7B-v0.3", "quantization": "nf4", "concurrency": 4}},
            "agents": {
                "writer": {"model": "base", "deadline": deadline(20).model_dump(), **writer},
                "scorer": {"model": "base", "task": "rerank"},
            },
        }
    )


def test_agents_of_one_model_share_its_lines(mistral: ModelShape) -> None:
    shared = agent_speed(two_agents(), "writer", {"base": mistral}, H200)
    alone = agent_speed(two_agents(), "writer", {"base": mistral}, H200, parts={"writer": 1})
    hurried = agent_speed(two_agents(), "writer", {"base": mistral}, H200, parts={"writer": 1, "scorer": 9})
    per_hour = [speed.requests_per_hour for speed in (alone, shared, hurried)]
    assert all(per_hour)
    expected = [rate.expected for rate in per_hour if rate]
    assert expected == sorted(expected, reverse=True)
    scorer = agent_speed(two_agents(), "scorer", {"base": mistral}, H200)
    assert scorer.requests_per_hour is not None
    assert scorer.requests_per_hour.expected == pytest.approx(expected[1], rel=0.05)
    assert per_hour[0] is not None
    assert per_hour[0].low < per_hour[0].expected < per_hour[0].high


def test_adapters_that_nobody_asks_cost_nothing(mistral: ModelShape) -> None:
    fleet = two_agents(adapter="a@v0001")
    both = fleet.model_copy(
        update={"agents": {**fleet.agents, "scorer": fleet.agents["scorer"].model_copy(update={"adapter": "b@v0001"})}}
    )
    one, two = (agent_speed(f, "writer", {"base": mistral}, H200, parts={"writer": 1}).busy for f in (fleet, both))
    assert one == two
    mixed = agent_speed(both, "writer", {"base": mistral}, H200).busy
    assert one is not None
    assert mixed is not None
    assert mixed.expected > one.expected


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"nobody": 1}, "'nobody': 1"),
        ({"writer": -1}, "'writer': -1"),
        ({"scorer": 1}, "writer has no part of the load"),
        ({}, "writer has no part of the load"),
    ],
)
def test_parts_that_are_none_are_refused(mistral: ModelShape, parts: dict[str, float], said: str) -> None:
    with pytest.raises(InputError) as refused:
        agent_speed(two_agents(), "writer", {"base": mistral}, H200, parts=parts)
    assert said in refused.value.problem
    assert refused.value.allowed


def test_nobody_asking_is_refused(mistral: ModelShape) -> None:
    with pytest.raises(InputError, match="0 callers"):
        agent_speed(two_agents(), "writer", {"base": mistral}, H200, callers=0)


@pytest.mark.parametrize(
    ("seconds", "prompt", "new", "percentile", "probability"),
    [
        (1e-9, 1, 1, 95, 0),
        (1e12, 1, 1, 99.99, 1),
        (60, 10**9, 1, 95, 0),
        (60, 1, 10**9, 0.01, 0),
        (1e-9, 10**9, 10**9, 95, 0),
    ],
)
def test_absurd_deadlines_have_a_plain_answer(
    make_fleet: MakeFleet,
    mistral: ModelShape,
    seconds: float,
    prompt: int,
    new: int,
    percentile: float,
    probability: float,
) -> None:
    shape = {"prompt_tokens": prompt, "new_tokens": new}
    agent = {"deadline": {"seconds": seconds, "percentile": percentile, **shape}}
    speed = agent_speed(make_fleet(agent=agent, concurrency=4096), "writer", {"base": mistral}, H200)
    assert speed.probability == pytest.approx(probability, abs=1e-6)


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
