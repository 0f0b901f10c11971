from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from onecard.cli import plan_output
from onecard.cli.plan import plan_of
from onecard.cli.plan_advice import advice_lines
from onecard.cli.plan_output import headline, ledger_table
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.planner.plan import Plan

FILES = sorted(file for file in examples_folder().glob("*.yaml") if file.stem != "demo")


@pytest.fixture(scope="module", params=[(file, card) for file in FILES for card in (None, "rtx-3060-12gb")], ids=str)
def plan(request: pytest.FixtureRequest) -> Plan:
    file, card = request.param
    return plan_of(load_fleet(file), card_id=card)


def printed(*parts: RenderableType, width: int = 100) -> str:
    paper = Console(width=width, file=io.StringIO(), highlight=False)
    for part in parts:
        paper.print(part)
    text = paper.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_headline_says_the_verdict(plan: Plan) -> None:
    text = str(headline(plan))
    assert ("does not fit" in text) == (not plan.fits)


@pytest.mark.parametrize("width", [78, 80, 100, 120])
def test_nothing_is_wider_than_the_console_and_no_figure_is_cut(
    plan: Plan, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def console(**options: Any) -> Console:
        return Console(**options, width=width, file=paper, force_terminal=True, color_system=None)

    paper = io.StringIO()
    monkeypatch.setattr(plan_output, "Console", console)
    plan_output.show(plan, Path("fleet.yaml"), hours=2)
    text = paper.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for line in plan.serving.lines:
        if line.kind == "cache":
            assert f"{line.bytes / 2**30:.2f}" in text


def test_weights_of_one_form_are_one_row_and_the_rows_sum_up(plan: Plan) -> None:
    text = printed(ledger_table(plan.serving), width=200)
    rows = [line for line in text.splitlines() if any(tag in line for tag in (" exact ", " measured "))]
    assert len(rows) <= sum(line.kind != "weights" for line in plan.serving.lines) + 3 * len(plan.fleet.models)
    assert f"{plan.need_bytes / 2**30:.2f}" in text.splitlines()[-1]


def test_advice_says_what_it_saves_costs_and_risks(plan: Plan) -> None:
    text = " ".join(printed(*advice_lines(plan, Path("fleet.yaml"))).split())
    assert ("what to change" in text) == (bool(plan.advice))
    for advice in plan.advice:
        for change in advice.changes:
            assert change.text in text
            assert f"{change.cost}; risk {change.risk}: {change.reason}" in text
        assert all(effect in text for effect in advice.effects)


def test_a_name_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        FILES[0].read_text().replace("card: rtx-3090", "card: {vram_gib: 24, bandwidth_gbs: 9, name: '[red]x'}")
    )
    assert "on [red]x:" in printed(headline(plan_of(load_fleet(file))))
