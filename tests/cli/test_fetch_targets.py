"""From words to repositories: all, roles, keys of a fleet, ids, and the words that are none of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.catalog.models import load_models, wrong_ids
from onecard.cli.fetch_targets import ROLES, targets_of
from onecard.errors import CatalogError, InputError, OnecardError, UnknownName
from onecard.fleet.loader import LoadedFleet, load_fleet

FLEET = """
name: team
card: rtx-3090
models:
  base: {id: mistralai/Mistral-7B-v0.3, quantization: int8, context: 4096, concurrency: 1}
  again: {id: mistralai/mistral-7b-v0.3, quantization: int8, context: 2048, concurrency: 1}
  tiny: {id: "embedded:mini", context: 512, concurrency: 1}
  far: {id: served-model, engine: remote, url: "http://127.0.0.1:9", context: 512, concurrency: 1}
agents:
  one: {model: base}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> LoadedFleet:
    (tmp_path / "team.yaml").write_text(FLEET)
    return load_fleet(tmp_path / "team.yaml")


@pytest.mark.parametrize("asked", [(), ("all",)])
def test_all_are_the_models_of_the_fleet_that_are_not_here_each_once(
    fleet: LoadedFleet, asked: tuple[str, ...]
) -> None:
    targets, skipped = targets_of(asked, fleet)
    assert [target.repo for target in targets] == ["mistralai/Mistral-7B-v0.3"]
    assert {one.name: one.reason for one in skipped} == {
        "tiny: embedded:mini": "already on this disk",
        "far: served-model": "served elsewhere",
    }


def test_a_key_of_the_fleet_is_its_model(fleet: LoadedFleet) -> None:
    assert [target.repo for target in targets_of(["base"], fleet)[0]] == ["mistralai/Mistral-7B-v0.3"]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_the_catalogs_first_choice(role: str) -> None:
    (target,), _ = targets_of([role], None)
    assert target.repo == next(model.id for model in load_models() if role in model.role_names)
    assert role in target.why


def test_an_id_is_written_as_the_catalog_writes_it() -> None:
    assert targets_of(["qwen/qwen3-8b"], None)[0][0].repo == "Qwen/Qwen3-8B"
    outside = targets_of(["someone/Model-1B"], None)[0][0]
    assert outside.repo == "someone/Model-1B" and "not in the catalog" in (outside.note or "")


def test_a_ready_quantized_copy_is_a_repository_of_its_own() -> None:
    ready = next(copy.id for model in load_models() for copy in model.prequantized)
    assert targets_of([ready], None)[0][0].repo == ready


@pytest.mark.parametrize("wrong", [wrong.id for wrong in wrong_ids()])
def test_a_wrong_id_says_what_was_meant(wrong: str) -> None:
    with pytest.raises(CatalogError) as error:
        targets_of([wrong], None)
    assert "use " in (error.value.next_step or "")


@pytest.mark.parametrize("word", ["primry", "coed", "../x", "a b", "/no/such/folder", "embedded:maxi", "org//name"])
def test_a_word_that_is_nothing_is_refused_before_anybody_is_asked(word: str) -> None:
    with pytest.raises(OnecardError):
        targets_of([word], None)


def test_a_slip_of_the_pen_names_the_role() -> None:
    with pytest.raises(UnknownName, match="did you mean 'primary'"):
        targets_of(["primry"], None)


def test_all_without_a_fleet_says_how_to_name_one() -> None:
    with pytest.raises(InputError, match="models of a fleet") as error:
        targets_of([], None)
    assert "--fleet" in (error.value.next_step or "")


def test_what_ships_with_the_package_is_here() -> None:
    targets, skipped = targets_of(["embedded:mini"], None)
    assert not targets and skipped[0].reason == "already on this disk"
