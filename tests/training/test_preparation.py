"""What is known before a weight is loaded: all faults together, the base's own limit, and the tokens' rows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onecard.errors import InputError, MissingPart
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Preset
from onecard.training.preparation import planned_steps, positions, prepare

STYLED = Recipe(added_tokens=("<STYLE_TERSE>",))
TERSE = {"terse": Preset(token="<STYLE_TERSE>")}
GOOD = {"prompt": "What is a mutex?", "completion": "A lock.", "preset": "terse"}


def write(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_faults_of_reading_and_of_counting_come_together(embedded, tmp_path):
    file = write(tmp_path / "rows.jsonl", {"prompt": "p"}, GOOD, {**GOOD, "completion": "</s>"})
    ledger = prepare(file, embedded, STYLED, TERSE).ledger
    assert [fault.where for fault in ledger.faults] == [f"{file}:1", f"{file}:3"]
    assert len(ledger.rows) == 1


def test_added_tokens_get_the_rows_after_the_vocabulary(embedded, tmp_path):
    facts = prepare(write(tmp_path / "rows.jsonl", GOOD), embedded, STYLED, TERSE).facts
    known = len(json.loads((embedded / "tokenizer.json").read_text())["model"]["vocab"])
    assert [(token.token, token.row) for token in facts.added_tokens] == [("<STYLE_TERSE>", known)]
    assert facts.stop_ids == (2,) and facts.rows == 1 and facts.trained_tokens > 2


def test_a_token_the_base_knows_keeps_its_row(embedded, tmp_path):
    recipe = Recipe(added_tokens=("<reserved_0>",))
    presets = {"terse": Preset(token="<reserved_0>")}
    prepared = prepare(write(tmp_path / "rows.jsonl", GOOD), embedded, recipe, presets)
    assert prepared.facts.added_tokens[0].row == 5 and not prepared.ledger.faults


def test_without_presets_any_name_is_taken_and_no_token_is_expected(embedded, tmp_path):
    assert not prepare(write(tmp_path / "rows.jsonl", GOOD), embedded, STYLED, None).ledger.faults


def test_rows_beyond_the_bases_own_positions_are_too_long(embedded, tmp_path):
    small = tmp_path / "small"
    shutil.copytree(embedded, small)
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10}))
    ledger = prepare(write(tmp_path / "rows.jsonl", GOOD), small, Recipe(max_length=1024), None).ledger
    assert ledger.max_length == 10 and "tokens" in ledger.faults[0].problem


@pytest.mark.parametrize(
    ("content", "error"), [(None, MissingPart), ("{", InputError)], ids=["no config", "broken config"]
)
def test_a_base_without_a_readable_config_is_an_error(tmp_path, content, error):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(error):
        positions(tmp_path)


@pytest.mark.parametrize(
    ("rows", "batch", "accumulate", "epochs", "steps"),
    [(400, 8, 2, 1, 25), (401, 8, 2, 1, 26), (10, 4, 4, 3, 3), (100, 10, 1, 1.5, 15), (1, 16, 16, 1, 1)],
)
def test_planned_steps(rows, batch, accumulate, epochs, steps):
    recipe = Recipe.model_validate({"batch": {"rows": batch, "accumulate": accumulate}, "epochs": epochs})
    assert planned_steps(rows, recipe) == steps
    assert planned_steps(rows, recipe.model_copy(update={"max_steps": 7})) == 7


def test_nothing_heavy_is_imported_to_prepare():
    code = (
        "import sys, onecard.training.preparation; print({'torch', 'trl', 'peft', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
