from __future__ import annotations

import pytest

from onecard.cli.plan import plan_of
from onecard.cli.plan_bar import memory_bar
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.planner.plan import Plan

FILES = sorted(file for file in examples_folder().glob("*.yaml") if file.stem != "demo")


@pytest.fixture(scope="module", params=[(file, card) for file in FILES for card in (None, "rtx-3060-12gb")], ids=str)
def plan(request: pytest.FixtureRequest) -> Plan:
    file, card = request.param
    return plan_of(load_fleet(file), card_id=card)


@pytest.mark.parametrize("width", [60, 100, 120])
def test_the_bar_is_as_wide_as_the_console_whatever_the_parts(plan: Plan, width: int) -> None:
    lines = memory_bar(plan, width)
    assert len(lines[0]) == width
    assert all(len(line) <= width for line in lines)
    assert ("the card ends here" in str(lines[1])) == (not plan.serving_fits)


def test_what_does_not_fit_stands_beyond_the_wall(plan: Plan) -> None:
    bar = str(memory_bar(plan, 100)[0])
    assert ("|" in bar) == ("!" in bar) == (not plan.serving_fits)
    if not plan.serving_fits:
        inside, beyond = bar.split("|")
        assert "!" not in inside
        assert "-" not in beyond
        share = plan.card.total_bytes / (plan.need_bytes + plan.reserve_bytes)
        assert abs(len(inside) / len(bar) - share) < 0.03
