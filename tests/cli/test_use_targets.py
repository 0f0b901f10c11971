from __future__ import annotations

from pathlib import Path

import pytest

from onecard.catalog.models import load_models
from onecard.cli.use_overrides import NAME, read_overrides
from onecard.cli.use_targets import ROLES, Place, copy_of, models_of_role, others_of_role, role_target, target_of
from onecard.errors import Refusal, UnknownName
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet

pytestmark = pytest.mark.usefixtures("own_environment")

LOCAL = examples_folder() / "local-rtx3070.yaml"


def place(folder: Path, fleet: Path | None = None, overrides: str = "") -> Place:
    (folder / NAME).write_text(overrides, encoding="utf-8")
    return Place(folder, load_fleet(fleet) if fleet else None, read_overrides(folder))


@pytest.mark.parametrize(
    ("role", "model", "form"),
    [
        ("primary", "meta-llama/Llama-3.1-8B-Instruct", "awq"),
        ("secondary", "Qwen/Qwen2.5-7B-Instruct", "awq"),
        ("fallback", "microsoft/Phi-3.5-mini-instruct", "nf4"),
        ("maths", "mistralai/Mathstral-7B-v0.1", "nf4"),
        ("code", "bigcode/starcoder2-7b", "nf4"),
    ],
)
def test_a_role_is_its_first_model_in_the_form_the_role_asks(tmp_path: Path, role: str, model: str, form: str) -> None:
    target = target_of(role, place(tmp_path))
    assert (target.id, target.spec.quantization, target.role) == (model, form, role)
    assert set(target.settled) == {"quantization"}


def test_every_role_has_a_model() -> None:
    assert all(models_of_role(role) for role in ROLES)


def test_the_fleets_own_entry_is_taken_by_its_key_its_id_and_a_role_it_plays(tmp_path: Path) -> None:
    here = place(tmp_path, LOCAL)
    for asked in ("base", "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/llama-3.1-8b-instruct", "primary", "general"):
        target = target_of(asked, here)
        assert (target.key, target.spec.context, target.spec.quantization) == ("base", 8192, "awq")
        assert set(target.settled) == {"quantization", "context", "concurrency"}
        assert target.source == "local-rtx3070.yaml: models.base"


def test_local_overrides_win_over_the_fleet_and_the_role(tmp_path: Path) -> None:
    text = "meta-llama/Llama-3.1-8B-Instruct: {quantization: nf4, context: 2048}\n"
    for here in (place(tmp_path, LOCAL, text), place(tmp_path, None, text)):
        target = target_of("primary", here)
        assert (target.spec.quantization, target.spec.context) == ("nf4", 2048)
        assert target.settled["context"] == target.settled["quantization"] == NAME


def test_a_copy_asked_for_by_name_is_the_model_in_that_form(tmp_path: Path) -> None:
    here = place(tmp_path)
    target = target_of("Qwen/Qwen2.5-7B-Instruct-AWQ", here)
    assert (target.id, target.spec.quantization) == ("Qwen/Qwen2.5-7B-Instruct", "awq")
    assert target.copy == "Qwen/Qwen2.5-7B-Instruct-AWQ"
    assert copy_of(role_target("secondary", here), "awq") == "Qwen/Qwen2.5-7B-Instruct-AWQ"
    assert copy_of(role_target("maths", here), "awq") is None


def test_folders_and_what_ships_with_onecard(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    here = place(tmp_path)
    assert target_of("mine", here).source == "a folder"
    assert target_of("embedded:mini", here).source == "ships with onecard"
    assert target_of("nobody/knows-this", here).source == "a hub id"


def test_a_slip_of_the_pen_is_told_before_any_hub_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'primary'\?"):
        target_of("prmary", place(tmp_path))


def test_a_model_that_answers_elsewhere_cannot_be_active_here(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "name: far\ncard: rtx-3070\nmodels:\n  far: {id: org/x, engine: remote, url: http://127.0.0.1:1}\n"
        "agents: {a: {model: far}}\n"
    )
    with pytest.raises(Refusal, match="answers elsewhere"):
        target_of("far", place(tmp_path, file))


def test_others_of_the_role_come_in_the_catalogs_order_without_the_model_itself(tmp_path: Path) -> None:
    target = target_of("reasoning", place(tmp_path))
    known = [model.id for model in load_models() if "reasoning" in model.role_names and model.id != target.id]
    assert [other.id for other in others_of_role(target)] == known
