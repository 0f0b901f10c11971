"""From words to repositories: all, roles, keys of a fleet, ids, and the words that are none of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onecard.catalog.machine import resolve_card
from onecard.catalog.models import load_models, wrong_ids
from onecard.cli import fetch_targets
from onecard.cli.fetch_targets import ROLES, Skipped, Target
from onecard.cli.use_fit import Ground, fitted, repository_of
from onecard.cli.use_overrides import NAME, read_overrides
from onecard.cli.use_targets import Place, target_of
from onecard.errors import CatalogError, InputError, OnecardError, UnknownName
from onecard.fleet.examples import examples_folder
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


def place_of(fleet: LoadedFleet | None, folder: Path | None = None) -> Place:
    at = fleet.folder if fleet else folder or Path()
    return Place(at, fleet, read_overrides(at))


def targets_of(asked: Any, fleet: LoadedFleet | None, card: str = "rtx-3070") -> tuple[list[Target], list[Skipped]]:
    return fetch_targets.targets_of(asked, place_of(fleet), lambda: Ground(resolve_card(card), 0.5))


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


@pytest.mark.parametrize("card", ["rtx-3070", "rtx-3090", "h200"])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_what_use_makes_active_on_this_card(role: str, card: str, tmp_path: Path) -> None:
    here = place_of(None, tmp_path)
    ground = Ground(resolve_card(card), 0.5)
    ((target,), _) = fetch_targets.targets_of([role], here, lambda: ground)
    assert target.repo == repository_of(fitted(target_of(role, here), here, ground), here)
    assert role in target.why


def test_where_a_role_runs_in_awq_the_copy_is_fetched_and_the_original_only_by_its_id() -> None:
    ((copy,), _) = targets_of(["primary"], None)
    assert copy.repo == "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
    assert copy.note == "meta-llama/Llama-3.1-8B-Instruct in awq, as `onecard use` loads it"
    ((original,), _) = targets_of(["meta-llama/Llama-3.1-8B-Instruct"], None)
    assert (original.repo, original.note) == ("meta-llama/Llama-3.1-8B-Instruct", None)


def test_a_role_that_does_not_fit_this_card_is_said_to() -> None:
    tiny = Ground(resolve_card("rtx-3070"), 6.0)
    ((target,), _) = fetch_targets.targets_of(["primary"], place_of(None), lambda: tiny)
    assert "it does not fit RTX 3070: `onecard use primary` says what would" in (target.note or "")


def test_what_this_machine_wants_otherwise_counts_as_it_does_for_use(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("meta-llama/Llama-3.1-8B-Instruct: {quantization: nf4}")
    ground = Ground(resolve_card("rtx-3070"), 0.5)
    ((target,), _) = fetch_targets.targets_of(["primary"], place_of(None, tmp_path), lambda: ground)
    assert target.repo == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize("asked", [(), ("base",), ("primary",)])
def test_a_fleets_awq_model_is_its_copy(asked: tuple[str, ...]) -> None:
    local = load_fleet(examples_folder() / "local-rtx3070.yaml")
    ((target,), _) = targets_of(asked, local)
    assert target.repo == "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
    assert "base" in target.why


def test_a_role_that_no_form_is_known_of_is_the_original_with_how_to_make_it(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("bigcode/starcoder2-7b: {quantization: awq}")
    ground = Ground(resolve_card("rtx-3070"), 0.5)
    ((target,), _) = fetch_targets.targets_of(["code"], place_of(None, tmp_path), lambda: ground)
    assert target.repo == "bigcode/starcoder2-7b"
    assert "`onecard quantize bigcode/starcoder2-7b --to awq`" in (target.note or "")


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
