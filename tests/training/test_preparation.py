"""What is known before a weight is loaded: all faults together, the base's own limit, and the tokens' rows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onecard.errors import DataError, InputError, MissingPart
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Preset
from onecard.training.preparation import planned_steps, positions, prepare, validation_rows

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


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("rows", [1, 2, 7, 40, 101])
def test_rows_kept_out_for_validation_are_those_the_loop_keeps_out(rows, share):
    from onecard.training import batches

    recipe = Recipe.model_validate({"validation": {"share": share}, "batch": {"rows": 2, "accumulate": 2}, "epochs": 3})
    trained, validated = batches.kept_out(rows, share, seed=1)
    assert validation_rows(rows, recipe) == len(validated)
    assert planned_steps(rows, recipe) == batches.total_steps(len(trained), recipe.batch, recipe.epochs, None)


PAIR = {"prompt": "What is a mutex?", "chosen": "A lock.", "rejected": "A door."}
TALK = {"messages": [{"role": "user", "content": "What is a mutex?"}, {"role": "assistant", "content": "A lock."}]}


@pytest.mark.parametrize(
    ("method", "good", "bad"), [("sft", GOOD, PAIR), ("sft", TALK, PAIR), ("dpo", PAIR, GOOD), ("dpo", PAIR, TALK)]
)
def test_rows_of_the_wrong_kind_for_the_method_are_refused(embedded, tmp_path, method, good, bad):
    recipe = Recipe(method=method)
    kinds = {type(one).__name__ for one in prepare(write(tmp_path / "a", good), embedded, recipe, None).ledger.encoded}
    assert kinds == {"EncodedPair" if method == "dpo" else "EncodedRow"}
    with pytest.raises(DataError, match=f"the recipe's method is {method}") as error:
        prepare(write(tmp_path / "b", good, bad), embedded, recipe, None)
    assert error.value.where == f"{tmp_path / 'b'}:2" and "set method:" in error.value.next_step


def test_the_suites_rows_must_not_be_trained_on(embedded, tmp_path):
    file, held = write(tmp_path / "rows", GOOD), write(tmp_path / "held", {**GOOD, "prompt": "what IS a  mutex?"})
    (fault,) = prepare(file, embedded, Recipe(), None, None, held).ledger.faults
    assert "held-out rows" in fault.problem and fault.where == f"{file}:1"
    lenient = Recipe.model_validate({"data_checks": {"leaks": 1}})
    assert not prepare(file, embedded, lenient, None, None, held).ledger.faults


def test_the_recipes_share_of_duplicates_applies(embedded, tmp_path):
    file = write(tmp_path / "rows", GOOD, GOOD)
    assert prepare(file, embedded, Recipe(), None).ledger.faults
    lenient = Recipe.model_validate({"data_checks": {"duplicates": 0.5}})
    assert not prepare(file, embedded, lenient, None).ledger.faults


def test_columns_that_nobody_reads_are_a_warning(embedded, tmp_path):
    import datasets

    datasets.Dataset.from_list([{**GOOD, "source": "x", "prest": "y"}]).save_to_disk(tmp_path / "saved")
    ledger = prepare(tmp_path / "saved", embedded, Recipe(), None).ledger
    assert [warning.problem for warning in ledger.warnings] == ["columns that nobody reads: prest, source"]
    assert not ledger.faults


def test_progress_tells_of_reading_and_of_counting(embedded, tmp_path):
    seen = []
    file = write(tmp_path / "rows", GOOD, TALK)
    prepare(file, embedded, Recipe(), None, on_count=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 0), (0, 2), (2, 2)]


def test_nothing_heavy_is_imported_to_prepare():
    heavy = "{'torch', 'trl', 'peft', 'transformers', 'datasets', 'pyarrow'}"
    code = f"import sys, onecard.training.preparation; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
