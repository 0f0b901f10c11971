from __future__ import annotations

from collections.abc import Callable

import pytest

from onecard.catalog.cards import custom_card, find_card
from onecard.errors import InputError
from onecard.fleet.schema import Fleet
from onecard.planner.job import finish_chance, finish_s
from onecard.planner.requests import agent_speed
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import cold_start

MakeFleet = Callable[..., Fleet]
H200 = cold_start(find_card("h200-sxm"))
AGENT = {"deadline": {"seconds": 9, "prompt_tokens": 300, "new_tokens": 100}}


def test_a_job_takes_as_long_as_its_rate_says(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    fleet = make_fleet(agent=AGENT)
    hourly = agent_speed(fleet, "writer", {"base": mistral}, H200).requests_per_hour
    needed = finish_s(fleet, "writer", {"base": mistral}, H200, 20_000)
    assert hourly is not None
    assert needed is not None
    assert needed.expected == pytest.approx(20_000 / hourly.expected * 3600, rel=0.03)
    assert needed.low < needed.expected < needed.high


def test_the_chance_to_finish_rises_with_time_and_falls_with_requests(
    make_fleet: MakeFleet, mistral: ModelShape
) -> None:
    def by(requests: int, within_s: float) -> float:
        found = finish_chance(make_fleet(agent=AGENT), "writer", {"base": mistral}, H200, requests, within_s)
        assert found is not None
        return found

    needed = finish_s(make_fleet(agent=AGENT), "writer", {"base": mistral}, H200, 1000)
    assert needed is not None
    chances = [by(1000, within) for within in (1e-9, needed.low, needed.expected, needed.high, 1e9)]
    assert chances == pytest.approx([0, 0.05, 0.5, 0.95, 1], abs=1e-6)
    fewer = [by(requests, needed.expected) for requests in (1, 500, 1000, 1100, 5000, 10**9)]
    assert fewer == sorted(fewer, reverse=True)
    assert fewer[0] > 0.99
    assert fewer[-1] < 0.01


def test_one_request_is_less_sure_than_many_for_its_length_is_not_known(
    make_fleet: MakeFleet, mistral: ModelShape
) -> None:
    one, many = (finish_s(make_fleet(agent=AGENT), "writer", {"base": mistral}, H200, n) for n in (1, 10_000))
    assert one is not None
    assert many is not None
    assert one.high / one.expected > many.high / many.expected


def test_what_cannot_be_timed_has_no_chance_and_no_requests_are_refused(
    make_fleet: MakeFleet, mistral: ModelShape
) -> None:
    remote = make_fleet(engine="remote", url="http://elsewhere", agent=AGENT)
    assert finish_chance(remote, "writer", {"base": mistral}, H200, 10, 10) is None
    assert finish_s(make_fleet(agent=AGENT), "writer", {"base": mistral}, cold_start(custom_card(24, 900)), 10) is None
    with pytest.raises(InputError, match="0 requests"):
        finish_chance(make_fleet(agent=AGENT), "writer", {"base": mistral}, H200, 0, 10)
