from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onecard.catalog.machine import cpu_card, resolve_card
from onecard.catalog.models import find_model
from onecard.catalog.units import GIB
from onecard.cli.use_fit import Fitted, Ground, fitted, ground_of, plan_of, refusal, repository_of, vllm_form
from onecard.cli.use_overrides import NAME, read_overrides
from onecard.cli.use_targets import ROLES, Place, target_of
from onecard.errors import FleetError
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet

pytestmark = pytest.mark.usefixtures("own_environment")


def place(folder: Path, overrides: str = "", fleet: str | None = None) -> Place:
    (folder / NAME).write_text(overrides, encoding="utf-8")
    return Place(folder, load_fleet(examples_folder() / fleet) if fleet else None, read_overrides(folder))


def on(asked: str, card: str, where: Place) -> tuple[Fitted, Ground]:
    ground = Ground(resolve_card(card), 0.5)
    return fitted(target_of(asked, where), where, ground), ground


@pytest.mark.parametrize("card", ["rtx-3070", "rtx-3090", "h200"])
@pytest.mark.parametrize("role", ROLES)
def test_what_is_said_to_fit_fits_by_the_plan_and_what_is_not_does_not(tmp_path: Path, role: str, card: str) -> None:
    here = place(tmp_path)
    made, ground = on(role, card, here)
    assert plan_of(made, here, ground).serving_fits == made.fits
    assert made.spec.context <= min(8192, made.shape.max_context or 8192)
    assert not made.fits or made.spec.context <= made.largest


@pytest.mark.parametrize(
    ("card", "form"), [("rtx-3070", "nf4"), ("rtx-3090", "none"), ("h200", "none"), ("rtx-4060-ti-16gb", "fp8")]
)
def test_where_no_form_is_set_the_most_precise_that_leaves_room_is_taken(tmp_path: Path, card: str, form: str) -> None:
    made, _ = on("mistralai/Mistral-7B-v0.3", card, place(tmp_path))
    assert (made.spec.quantization, made.spec.context, made.fits) == (form, 8192, True)


def test_the_context_is_as_much_as_fits_where_nobody_set_it(tmp_path: Path) -> None:
    here = place(tmp_path)
    ground = Ground(resolve_card("rtx-3070"), 1.0)
    made = fitted(target_of("primary", here), here, ground)
    assert 512 < made.spec.context < 8192
    assert made.spec.context % 256 == 0
    assert made.spec.context <= made.largest < made.spec.context + 256


def test_a_context_that_was_set_is_kept_or_refused_with_what_would_fit(tmp_path: Path) -> None:
    here = place(tmp_path, "meta-llama/Llama-3.1-8B-Instruct: {context: 32768}")
    made, ground = on("primary", "rtx-3070", here)
    assert (made.fits, made.spec.context) == (False, 32768)
    error = refusal(made, plan_of(made, here, ground), here, ground)
    assert "32,768 tokens of context needs" in error.problem
    assert "too much" in error.problem
    advice = error.next_step or ""
    offered = int(advice.partition("`context: ")[2].partition("`")[0])
    assert "--force" in advice
    (tmp_path / NAME).write_text(f"meta-llama/Llama-3.1-8B-Instruct: {{context: {offered}}}")
    again, _ = on("primary", "rtx-3070", Place(tmp_path, None, read_overrides(tmp_path)))
    assert again.fits


def test_what_is_offered_instead_fits(tmp_path: Path) -> None:
    here = place(tmp_path)
    made, ground = on("vision", "rtx-3070", here)
    assert not made.fits
    advice = refusal(made, plan_of(made, here, ground), here, ground).next_step or ""
    form, _, context = advice.partition("`quantization: ")[2].partition("`")[0].partition(", context: ")
    there = place(tmp_path, f"{made.target.id}: {{quantization: {form}, context: {context}}}")
    assert on("vision", "rtx-3070", there)[0].fits
    named = advice.partition("`onecard use ")[2].partition("`")[0]
    other, _ = on(named, "rtx-3070", place(tmp_path))
    assert other.fits


def test_fewer_callers_are_offered(tmp_path: Path) -> None:
    here = place(tmp_path, "mistralai/Mathstral-7B-v0.1: {concurrency: 64, context: 4096}")
    made, ground = on("maths", "rtx-3070", here)
    assert not made.fits
    advice = refusal(made, plan_of(made, here, ground), here, ground).next_step or ""
    assert "`concurrency: 1, context: 4096`" in advice or "`context: " in advice


def test_what_fits_nowhere_points_to_the_catalog(tmp_path: Path) -> None:
    config = dict(find_model("mistralai/Mistral-7B-v0.3").config) | {"num_hidden_layers": 2000}
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / "config.json").write_text(json.dumps(config))
    here = place(tmp_path)
    made, ground = on("huge", "rtx-3070", here)
    error = refusal(made, plan_of(made, here, ground), here, ground)
    assert error.next_step == "a smaller model (`onecard models --fits rtx-3070`) or a larger card; or --force"


def test_a_context_beyond_the_model_says_who_asked_for_it(tmp_path: Path) -> None:
    here = place(tmp_path, "mistralai/Mathstral-7B-v0.1: {context: 999999}")
    with pytest.raises(FleetError, match="reaches 32768 tokens") as raised:
        on("maths", "rtx-3090", here)
    assert raised.value.where == NAME


def test_the_fleets_card_and_reserve_are_the_ground(tmp_path: Path) -> None:
    ground = ground_of(place(tmp_path, fleet="local-rtx3070.yaml"), None)
    assert (ground.card.id, ground.reserve_gib) == ("rtx-3070", 0.5)
    assert ground_of(place(tmp_path, fleet="local-rtx3070.yaml"), "rtx-3090").card.id == "rtx-3090"


def checkpoint(folder: Path, quantization: dict[str, Any] | None) -> None:
    config = dict(find_model("mistralai/Mistral-7B-v0.3").config) | {"num_hidden_layers": 2}
    folder.mkdir()
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 128, "strategy": "group"},
        }
    },
    "ignore": ["lm_head"],
}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(("quantization", "form"), [(None, ""), (AWQ, "awq"), (COMPRESSED, ""), (BNB, "bitsandbytes")])
def test_a_folder_is_loaded_from_where_it_is_and_a_checkpoint_speaks_for_itself(
    tmp_path: Path, quantization: dict[str, Any] | None, form: str
) -> None:
    checkpoint(tmp_path / "my model", quantization)
    here = place(tmp_path)
    made, ground = on("./my model", "rtx-3070", here)
    assert repository_of(made, here) == str(tmp_path / "my model")
    assert vllm_form(made, ground) == form


@pytest.mark.parametrize(
    ("form", "said", "loads"),
    [
        ("none", "", "Qwen/Qwen2.5-7B-Instruct"),
        ("nf4", "bitsandbytes", "Qwen/Qwen2.5-7B-Instruct"),
        ("fp8", "fp8", "Qwen/Qwen2.5-7B-Instruct"),
        ("awq", "awq", "Qwen/Qwen2.5-7B-Instruct-AWQ"),
        ("gptq", "gptq", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"),
        ("int8", None, "Qwen/Qwen2.5-7B-Instruct"),
    ],
)
def test_vllms_own_name_of_each_form_and_what_it_is_loaded_from(
    tmp_path: Path, form: str, said: str | None, loads: str
) -> None:
    here = place(tmp_path, f"Qwen/Qwen2.5-7B-Instruct: {{quantization: {form}}}")
    made, ground = on("secondary", "h200", here)
    assert (vllm_form(made, ground), repository_of(made, here)) == (said, loads)


def test_vllms_cpu_build_holds_nothing_of_bitsandbytes(tmp_path: Path) -> None:
    here = place(tmp_path, "embedded:mini: {quantization: nf4}")
    ground = Ground(cpu_card(8 * GIB, 10.0), 0.5)
    made = fitted(target_of("embedded:mini", here), here, ground)
    assert (made.fits, vllm_form(made, ground)) == (True, None)
