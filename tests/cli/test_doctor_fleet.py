"""A fleet held against machines of other sizes: what to lower is what makes it fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from onecard.catalog.units import GIB
from onecard.cli.doctor_fleet import card_here, memory_need, needed_model, read_fleet
from onecard.cli.doctor_machine import read_machine
from onecard.cli.doctor_records import Machine, SeenGpu
from onecard.cli.weights_fleets import fleets_here, remember_fleet
from onecard.fleet.loader import LoadedFleet, load_fleet
from onecard.fleet.schema import ModelSpec

MISTRAL = {"id": "mistralai/Mistral-7B-v0.3", "quantization": "nf4", "context": 16384, "concurrency": 4}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "ONECARD_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fleet(folder: Path, card: str = "rtx-3090", **changed: object) -> LoadedFleet:
    file = folder / "fleet.yaml"
    agents = {"writer": {"model": "base"}}
    file.write_text(
        yaml.safe_dump({"name": "x", "card": card, "models": {"base": MISTRAL | changed}, "agents": agents})
    )
    return load_fleet(file)


def machine(free_gib: float) -> Machine:
    gpu = SeenGpu(
        "nvidia", "NVIDIA GeForce RTX 3090", "580.95.05", 24 * GIB, round((24 - free_gib) * GIB), round(free_gib * GIB)
    )
    return replace(read_machine(), gpu=gpu)


@pytest.mark.parametrize("free_gib", [8.0, 9.5, 11.0, 13.0])
def test_what_is_advised_fits_what_is_free(free_gib: float, tmp_path: Path) -> None:
    seen = machine(free_gib)
    need = memory_need(fleet(tmp_path), card_here(seen), seen)
    assert need.need_bytes > need.free_bytes and need.fits_empty and need.advice
    changed = {text.split(":")[0].rpartition(".")[2]: int(text.rpartition(" ")[2]) for text in need.advice}
    assert set(changed) <= {"context", "concurrency"}
    after = memory_need(fleet(tmp_path, **changed), card_here(seen), seen)
    assert after.need_bytes <= after.free_bytes


def test_where_nothing_is_enough_nothing_is_advised(tmp_path: Path) -> None:
    seen = machine(0.5)
    assert memory_need(fleet(tmp_path), card_here(seen), seen).advice == ()


def test_a_card_nobody_knows_is_planned_as_the_fleets(tmp_path: Path) -> None:
    seen = machine(20)
    assert seen.gpu is not None
    unknown = replace(seen, gpu=replace(seen.gpu, name="NVIDIA Unheard Of"))
    assert card_here(unknown) is None
    facts = read_fleet(fleet(tmp_path), unknown, already_served=False)
    assert facts.memory is not None and facts.memory.planned_on == "RTX 3090" and facts.other_card is None


def test_a_fleet_for_another_card(tmp_path: Path) -> None:
    assert read_fleet(fleet(tmp_path, "rtx-4090"), machine(20), already_served=False).other_card == "RTX 4090"
    assert read_fleet(fleet(tmp_path, "auto"), machine(20), already_served=False).other_card is None


def test_a_fleet_that_is_served_already_is_not_held_against_the_card(tmp_path: Path) -> None:
    assert read_fleet(fleet(tmp_path), machine(1), already_served=True).memory is None


def test_a_model_that_only_the_hub_knows_cannot_be_planned_here(tmp_path: Path) -> None:
    facts = read_fleet(fleet(tmp_path, id="nobody/knows-this"), machine(20), already_served=False)
    assert facts.memory is None and "nobody/knows-this" in (facts.memory_fault or "")
    (model,) = facts.models
    assert model.from_hub and model.missing_bytes is None


def test_sizes_of_a_model_on_this_disk(tmp_path: Path) -> None:
    model = needed_model("base", ModelSpec(id="embedded:mini"), tmp_path)
    assert model.folder is not None and 0 < model.largest_file_bytes <= model.weights_bytes


def test_a_model_in_a_form_that_only_a_copy_holds_is_missed_and_kept_as_that_copy(tmp_path: Path) -> None:
    copy = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
    loaded = fleet(tmp_path, "rtx-3070", id="meta-llama/Llama-3.1-8B-Instruct", quantization="awq", context=4096)
    assert needed_model("base", loaded.fleet.models["base"], tmp_path).id == copy
    remember_fleet(loaded)
    (needs,) = fleets_here([]).needs
    assert set(needs.models) == {"meta-llama/Llama-3.1-8B-Instruct", copy}
