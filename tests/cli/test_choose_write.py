"""The chosen model in the text of a fleet file: two words change, everything else stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onecard.cli.choose_write import check_target, edited, write_choice
from onecard.errors import FleetError, InputError
from onecard.fleet.loader import load_fleet

BLOCK = """# mine
name: t
card: rtx-3090
models:
  base:
    id: "Qwen/Qwen3-8B"   # the usual
    quantization: nf4     # 4 bits
    context: 4096
  other: {id: org/x}
agents:
  writer: {model: base, data: rows.jsonl}
"""


def test_block_and_braces_are_edited_where_they_stand():
    new = edited(BLOCK, "f", "base", "microsoft/phi-4", "awq")
    assert new == BLOCK.replace('"Qwen/Qwen3-8B"', "microsoft/phi-4").replace("nf4 ", "awq ")
    other = edited(BLOCK, "f", "other", "microsoft/phi-4", "int8")
    assert "  other: {id: microsoft/phi-4, quantization: int8}\n" in other


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_form_that_was_left_out_is_added_below_the_id(newline: str):
    text = "models:\n  base:\n    id: a/b  # x\n    context: 64\n".replace("\n", newline)
    new = edited(text, "f", "base", "c/d", "nf4")
    assert new == "models:\n  base:\n    id: c/d  # x\n    quantization: nf4\n    context: 64\n".replace("\n", newline)
    assert edited(text, "f", "base", "c/d", "none") == text.replace("a/b", "c/d")


def test_every_example_is_edited_to_what_was_chosen(examples: Path, tmp_path: Path):
    for file in sorted(examples.glob("*.yaml")):
        loaded = load_fleet(file)
        for key in loaded.fleet.models:
            target = tmp_path / f"{file.stem}-{key}.yaml"
            write_choice(file, target, key, "microsoft/Phi-3.5-mini-instruct", "int8")
            model = load_fleet(target).fleet.models[key]
            assert (model.id, model.quantization) == ("microsoft/Phi-3.5-mini-instruct", "int8")
            assert len(target.read_text().splitlines()) == len(file.read_text().splitlines())


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1))
def test_any_id_is_read_back_as_itself(model_id: str):
    new = edited(BLOCK, "f", "base", model_id, "none")
    assert yaml.safe_load(new)["models"]["base"]["id"] == model_id


def test_anchors_are_refused_rather_than_changed_elsewhere():
    text = "models:\n  base: &b {id: a/b, quantization: nf4}\n  more: *b\n"
    with pytest.raises(FleetError, match="by hand"):
        edited(text, "fleet.yaml", "more", "c/d", "nf4")


def test_a_file_is_not_replaced_unasked(tmp_path: Path):
    there = tmp_path / "there.yaml"
    there.write_text("x")
    with pytest.raises(InputError, match="a file already"):
        check_target(there, force=False)
    check_target(there, force=True)
    with pytest.raises(InputError, match="a folder"):
        check_target(tmp_path, force=True)
    with pytest.raises(InputError, match="no such folder"):
        check_target(tmp_path / "no" / "x.yaml", force=False)


def test_in_another_folder_lost_paths_are_told_and_lost_recipes_refused(tmp_path: Path):
    source = tmp_path / "a" / "fleet.yaml"
    (tmp_path / "b").mkdir()
    source.parent.mkdir()
    source.write_text(BLOCK)
    told = write_choice(source, tmp_path / "b" / "fleet.yaml", "base", "microsoft/phi-4", "nf4")
    assert "not found from there: rows.jsonl" in told
    assert write_choice(source, tmp_path / "a" / "new.yaml", "base", "microsoft/phi-4", "nf4") == []
    (tmp_path / "a" / "recipe.yaml").write_text("name: mine\n")
    source.write_text(BLOCK.replace("data: rows", "recipe: recipe.yaml, data: rows"))
    with pytest.raises(FleetError, match="the recipe of writer would not be found"):
        write_choice(source, tmp_path / "b" / "more.yaml", "base", "microsoft/phi-4", "nf4")
    assert not (tmp_path / "b" / "more.yaml").exists()


@pytest.fixture
def examples() -> Path:
    return Path(__file__).parent.parent.parent / "examples"
