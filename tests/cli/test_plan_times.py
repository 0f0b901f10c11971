from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from onecard.cli.plan import plan_of
from onecard.cli.plan_times import (
    duration,
    expected,
    percent,
    span,
    speed_note,
    speed_table,
    together,
    training_note,
    training_table,
)
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.planner.plan import Plan
from onecard.planner.speed import Seconds

FILES = sorted(file for file in examples_folder().glob("*.yaml") if file.stem != "demo")


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def plan(request: pytest.FixtureRequest) -> Plan:
    return plan_of(load_fleet(request.param))


def printed(table: Table, width: int = 140) -> str:
    paper = io.StringIO()
    Console(width=width, file=paper, highlight=False).print(table)
    return paper.getvalue()


def test_every_deadline_shows_its_percentile_its_probability_and_what_is_spare(plan: Plan) -> None:
    text = printed(speed_table(plan.agents))
    for agent in plan.agents:
        if agent.deadline_s is None or agent.probability is None or agent.margin_s is None:
            continue
        row = next(line for line in text.splitlines() if line.startswith(agent.agent))
        for part in (f"{agent.deadline_s:g} s p{agent.percentile:g}", percent(agent.probability), agent.verdict):
            assert part in row
        assert duration(agent.margin_s) in row
    assert ("in time" in speed_note(plan.agents)) == any(agent.probability is not None for agent in plan.agents)


def test_training_shows_time_money_with_whose_price_it_is_and_the_chance_to_be_done(plan: Plan) -> None:
    text = printed(training_table(plan.trainings, hours=1))
    for run in plan.trainings:
        if run.time is None:
            continue
        row = next(line for line in text.splitlines() if line.startswith(run.agent) and run.recipe.name in line)
        assert expected(run.time.seconds) in row
        assert percent(run.time.chance(3600)) in row
        if run.time.median:
            assert f"{run.time.median.low_usd:.2f}-{run.time.median.high_usd:.2f}" in row
            quote = run.time.median.quote
            assert f"{quote.provider}, {quote.date}" in training_note(plan.trainings)
    known = [run.time for run in plan.trainings if run.time]
    assert ("all, in turn" in text) == (len(known) > 1)


def test_runs_in_turn_add_up() -> None:
    assert together([Seconds(1, 2, 4), Seconds(10, 20, 40)]) == Seconds(11, 22, 44)


@given(st.floats(1e-6, 1e6), st.floats(1, 10))
def test_a_range_has_one_unit_and_its_ends_in_order(low: float, factor: float) -> None:
    text = span(Seconds(low, low, low * factor))
    ends, unit = text.rsplit(" ", 1)
    first, last = (float(end) for end in ends.split("-"))
    assert unit in ("ms", "s", "min", "h")
    assert first <= last


@given(st.floats(0, 1))
def test_a_probability_is_never_a_bare_0_or_1(probability: float) -> None:
    assert percent(probability) not in ("0%", "100%")


def test_times_read_as_people_write_them() -> None:
    assert span(Seconds(0.148, 0.2, 0.394)) == "148-394 ms"
    assert span(Seconds(6.46, 9, 17.2)) == "6.5-17 s"
    assert span(Seconds(2760, 5000, 8000)) == "46-133 min"
    assert span(Seconds(8000, 9000, 20000)) == "2.2-5.6 h"
    assert span(None) == "-"
    assert duration(3.14) == "3.1 s"
    assert duration(-12.2) == "-12 s"
    assert duration(0.04) == "40 ms"
    assert expected(Seconds(900, 1620, 2640)) == "27 min (15-44)"
    assert [percent(p) for p in (0.001, 0.5, 0.9, 0.9999)] == ["<1%", "50%", "90%", ">99%"]
