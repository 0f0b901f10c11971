from __future__ import annotations

from pathlib import Path

import pytest

from onecard.catalog.cards import Card, custom_card, load_cards
from onecard.catalog.machine import cpu_card
from onecard.catalog.models import find_model, load_models
from onecard.fleet.loader import load_fleet
from onecard.fleet.starter import EMBEDDED, MINI, WISHES, choose_base, starter_fleet
from onecard.planner.plan import plan
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model
from onecard.weights.inventory import read_config, resolve

CARDS = (*load_cards(), cpu_card(4 * 2**30, 8.0), custom_card(5, 300, 20), custom_card(1.5, 50, 1))


def shape_of(model_id: str) -> ModelShape:
    if model_id == EMBEDDED:
        return shape_of_config(model_id, read_config(resolve(model_id, Path())))
    return shape_of_model(find_model(model_id))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.id}-{card.total_gib:g}")
def test_what_is_written_loads_and_fits(card: Card, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(starter_fleet(card, load_models()))
    fleet = load_fleet(file).fleet
    made = plan(fleet, card, {"base": shape_of(fleet.models["base"].id)})
    assert made.serving_fits
    assert all(training.fits for training in made.trainings)
    assert made.trainings
    assert not any("trained on" in warning for warning in made.warnings)
    assert all(agent.verdict != "misses" for agent in made.agents)


def test_larger_cards_get_larger_bases() -> None:
    models = load_models()
    sizes = [
        0 if wish.id == EMBEDDED else find_model(wish.id).parameters
        for wish in (choose_base(custom_card(gib, 900, 70), models) for gib in (1, 8, 16, 24, 48, 80, 192))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert sizes[-1] > 14e9


def test_a_processor_gets_the_embedded_base() -> None:
    assert choose_base(cpu_card(500 * 2**30, 100.0), load_models()) is MINI


def test_every_base_is_open_and_can_be_fetched_without_an_account() -> None:
    for wish in WISHES:
        model = find_model(wish.id)
        assert model.licence.fully_open
        assert not model.access.gated


def test_comments_stand_in_one_column() -> None:
    lines = [line for line in starter_fleet(load_cards()[0], load_models()).splitlines() if " # " in line]
    columns = {line.index(" # ") for line in lines if not line.strip().startswith("#")}
    assert len(columns) == 1
