"""Fleets, shapes and cards that several tests of the planner need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onecard.catalog.cards import Card, custom_card
from onecard.catalog.models import find_model
from onecard.fleet.schema import Fleet
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model
from onecard.weights.inventory import read_config, resolve

MISTRAL = "mistralai/Mistral-7B-v0.3"


@pytest.fixture(scope="session")
def mistral() -> ModelShape:
    return shape_of_model(find_model(MISTRAL))


@pytest.fixture(scope="session")
def mini() -> ModelShape:
    return shape_of_config("embedded:mini", read_config(resolve("embedded:mini", Path())))


@pytest.fixture(scope="session")
def make_fleet() -> Callable[..., Fleet]:
    """A fleet of one Mistral-7B and one agent; keywords go to the model, `agent` and others to where they belong."""

    def make(agent: dict[str, Any] | None = None, reserve_gib: float = 0.5, **model: Any) -> Fleet:
        spec = {"id": MISTRAL, "quantization": "nf4", "context": 4096, "concurrency": 4, **model}
        return Fleet.model_validate(
            {
                "name": "test",
                "card": "rtx-3090",
                "reserve_gib": reserve_gib,
                "models": {"base": spec},
                "agents": {"writer": {"model": "base", **(agent or {})}},
            }
        )

    return make


@pytest.fixture(scope="session")
def card_of() -> Callable[[float], Card]:
    """A card with so many GiB and the figures of an RTX 3090 otherwise."""
    return lambda gib: custom_card(gib, 936.2, 71.2, usd_per_hour=0.2)
