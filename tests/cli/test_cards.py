"""`onecard cards` as a person at a terminal, or a script, sees it."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from onecard.catalog.cards import load_cards
from onecard.cli.cards import cards
from onecard.errors import CatalogError


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments: str):
        return CliRunner().invoke(cards, list(arguments))

    return invoke


@pytest.mark.parametrize("columns", [80, 100])
def test_the_list_has_one_line_a_card_within_the_terminal(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = run()
    assert done.exit_code == 0
    lines = [line.rstrip() for line in done.output.splitlines()]
    assert max(map(len, lines)) <= columns
    for card in load_cards():
        (line,) = [line for line in lines if line.split()[:1] == [card.id]]
        assert f"{card.total_gib:.2f}" in line and f"{card.bandwidth_gbs:,.0f}" in line
    assert "…" not in done.output


def test_what_is_not_torchs_own_figure_is_marked(run):
    lines = {line.split()[0]: line for line in run().output.splitlines() if line.split()}
    assert "191.48*" in lines["mi300x"]
    assert "*" not in lines["rtx-3090"]


@pytest.mark.parametrize("card_id", [card.id for card in load_cards()])
def test_show_prints_every_fact_with_its_source(run, card_id):
    card = next(c for c in load_cards() if c.id == card_id)
    done = run("show", card_id)
    assert done.exit_code == 0
    words = re.sub(r"\s+", "", done.output)
    sources = [card.memory.source, card.bandwidth.source, card.compute.source, *card.notes]
    sources += [quote.source for quote in card.price.quotes] if card.price else []
    for fact in sources:
        assert re.sub(r"\s+", "", fact) in words
    assert max(len(line.rstrip()) for line in done.output.splitlines()) <= 100


def test_prices_are_shown_with_provider_and_date(run):
    assert "1.006 USD/h, AWS g5.xlarge, 2026-06" in run("show", "a10g").output


def test_show_auto_is_this_machine(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = json.loads(run("show", "auto", "--json").output)
    assert (shown["id"], shown["memory_basis"]) == ("cpu", "measured")
    assert shown["total_bytes"] > 0


def test_json(run):
    found = {card["id"]: card for card in json.loads(run("--json").output)}
    assert found["h200-sxm"]["bandwidth"]["memory_bandwidth_gbs"] == 4800
    assert found["rtx-3070"]["total_bytes"] == round(7.8 * 1024**3)
    assert json.loads(run("show", "H200", "--json").output) == found["h200-sxm"]


def test_an_unknown_card_is_wrong_use(run):
    done = run("show", "rtx-3091")
    assert isinstance(done.exception, CatalogError) and done.exception.exit_code == 2
    assert "did you mean 'rtx-3090'" in str(done.exception)


def test_help_has_an_example(run):
    assert "onecard cards show rtx-3090" in run("--help").output
