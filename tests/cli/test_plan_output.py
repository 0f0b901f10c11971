from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onecard.cli.plan import plan_of
from onecard.cli.plan_output import headline, span
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.planner.plan import Plan
from onecard.planner.speed import Seconds

FILES = sorted(file for file in examples_folder().glob("*.yaml") if file.stem != "demo")


@pytest.fixture(scope="module", params=[(file, card) for file in FILES for card in (None, "rtx-3060-12gb")], ids=str)
def plan(request: pytest.FixtureRequest) -> Plan:
    file, card = request.param
    return plan_of(load_fleet(file), card_id=card)


def test_the_headline_says_the_verdict(plan: Plan) -> None:
    text = str(headline(plan))
    assert ("does not fit" in text) == (not plan.fits)


@given(st.floats(1e-6, 1e6), st.floats(1, 10))
def test_a_range_has_one_unit_and_its_ends_in_order(low: float, factor: float) -> None:
    text = span(Seconds(low, low, low * factor))
    ends, unit = text.rsplit(" ", 1)
    first, last = (float(end) for end in ends.split("-"))
    assert unit in ("ms", "s", "min", "h")
    assert first <= last


def test_ranges_read_as_people_write_them() -> None:
    assert span(Seconds(0.148, 0.2, 0.394)) == "148-394 ms"
    assert span(Seconds(6.46, 9, 17.2)) == "6.5-17 s"
    assert span(Seconds(2760, 5000, 8000)) == "46-133 min"
    assert span(Seconds(8000, 9000, 20000)) == "2.2-5.6 h"
    assert span(None) == "-"


def test_a_name_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        FILES[0].read_text().replace("card: rtx-3090", "card: {vram_gib: 24, bandwidth_gbs: 9, name: '[red]x'}")
    )
    console = Console(width=100, file=(tmp_path / "out").open("w"))
    console.print(headline(plan_of(load_fleet(file))))
    console.file.close()
    assert "on [red]x:" in (tmp_path / "out").read_text()
