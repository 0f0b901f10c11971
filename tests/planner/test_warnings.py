from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.cards import custom_card, find_card
from onecard.catalog.machine import cpu_card
from onecard.catalog.models import find_model
from onecard.fleet.schema import Fleet
from onecard.planner.shapes import ModelShape, shape_of_model, unknown_shape
from onecard.planner.warnings import warnings

MakeFleet = Callable[..., Fleet]
L4 = find_card("l4")


def test_a_sound_fleet_has_nothing_to_warn_of(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    assert warnings(make_fleet(agent={"adapter": "a@v0001", "recipe": {}}), L4, {"base": mistral}) == ()


def test_a_remote_model_is_named_and_nothing_else_is_said_of_it(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(
        engine="remote", url="http://elsewhere", agent={"input": "image", "adapter": "a@v0001", "recipe": {}}
    )
    (said,) = warnings(fleet, L4, {"base": unknown_shape("x")})
    assert "models.base is remote" in said


def test_images_for_a_model_that_sees_none(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    (said,) = warnings(make_fleet(agent={"input": "image"}), L4, {"base": mistral})
    assert "takes no images" in said
    llava = shape_of_model(find_model("llava-hf/llava-1.5-7b-hf"))
    assert warnings(make_fleet(agent={"input": "image"}), L4, {"base": llava}) == ()


def test_falcon_stays_in_16_bits(make_fleet: MakeFleet) -> None:
    falcon = shape_of_model(find_model("tiiuae/falcon-7b"))
    (said,) = warnings(make_fleet(quantization="int8"), L4, {"base": falcon})
    assert said.startswith("models.base: int8 leaves ")


def test_cards_on_which_figures_or_engines_are_missing(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    def said_of(card: object) -> str:
        return " ".join(warnings(make_fleet(), card, {"base": mistral}))  # type: ignore[arg-type]

    assert "this is the processor" in said_of(cpu_card(2**34, 9.0, ("rocm-smi failed: no device",)))
    assert "rocm-smi failed" in said_of(cpu_card(2**34, 9.0, ("rocm-smi failed: no device",)))
    assert "no compute rate" in said_of(custom_card(24, 900))
    assert "Apple" in said_of(find_card("apple-m4-max-64gb"))
