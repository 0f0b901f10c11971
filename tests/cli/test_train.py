"""`onecard train` as a person or a script sees it, on the embedded base in nf4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from onecard.adapters.store import Store
from onecard.cli.main import main
from onecard.cli.train import run_training, train
from onecard.cli.train_output import clock, numbers
from onecard.errors import DataError, FleetError
from onecard.fleet.loader import load_fleet
from onecard.training.order import Progress

FLEET = """
name: small
card: {{vram_gib: 4, bandwidth_gbs: 20}}
models: {{base: {{id: "embedded:mini", quantization: {quantization}}}}}
agents:
  writer:
    model: base
    {adapter}
    data: rows.jsonl
    {recipe}
    presets: {{terse: {{token: "<STYLE_TERSE>"}}}}
"""
RECIPE = (
    'recipe: {added_tokens: ["<STYLE_TERSE>"], lora: {rank: 4, alpha: 8}, batch: {rows: 2, accumulate: 1}, '
    "optimizer: {learning_rate: 5.0e-3, warmup_ratio: 0}, gradient_checkpointing: false, epochs: 2}"
)
ROWS = [
    {"prompt": "What is a mutex?", "completion": "A lock.", "preset": "terse"},
    {"prompt": "What is a queue?", "completion": "A list.", "preset": "terse"},
    {"prompt": "What is a stack?", "completion": "A pile.", "preset": "terse"},
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def fleet(tmp_path):
    def make(adapter="adapter: style@production", recipe=RECIPE, quantization="nf4", rows=ROWS) -> Path:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = tmp_path / "fleet.yaml"
        file.write_text(FLEET.format(adapter=adapter, recipe=recipe, quantization=quantization))
        return file

    return make


def run(*arguments: object):
    return CliRunner().invoke(train, [str(a) for a in arguments], standalone_mode=False)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"fleet.yaml", "rows.jsonl"}


def test_a_candidate_is_published_and_the_next_step_is_told(fleet, tmp_path):
    file = fleet()
    done = run(file, "--agent", "writer")
    assert done.exception is None
    stored = Store(tmp_path / "modelstore").resolve("writer", "style@candidate")
    assert f"writer/style@v0001 is published as the candidate (digest {stored.digest[:12]})" in done.output
    assert f"onecard evaluate {file} --agent writer" in done.output
    assert stored.manifest.base.id == "embedded:mini" and stored.manifest.training.rows == 3
    assert left_in(tmp_path) == {"modelstore"}, "no run folder is left"


def test_json_names_the_version_and_the_store_can_be_another(fleet, tmp_path):
    done = run(fleet(), "--agent", "writer", "--limit-rows", 2, "--store", tmp_path / "elsewhere", "--json")
    record = json.loads(done.stdout)
    assert (record["version"], record["rows"], record["steps"]) == ("v0001", 2, 2)
    assert record["last_loss"] < record["first_loss"] and record["peak_memory_bytes"] > 0
    assert Store(tmp_path / "elsewhere").resolve("writer", "style@v0001").digest == record["digest"]
    assert left_in(tmp_path) == {"elsewhere"}


def test_a_dry_run_counts_and_trains_nothing(fleet, tmp_path):
    done = run(fleet(), "--agent", "writer", "--dry-run")
    assert "4 steps would be trained" in done.output and "Token ledger" in done.output
    assert json.loads(run(fleet(), "--agent", "writer", "--dry-run", "--json").output)["steps"] == 4
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("changes", "problem", "key"),
    [
        ({"adapter": ""}, "no adapter to train", "agents.writer.adapter"),
        ({"recipe": ""}, "no recipe", "agents.writer.recipe"),
        ({"quantization": "int8"}, "trains on nf4 weights and model 'base' is served in int8", "base_quantization"),
    ],
)
def test_an_agent_that_cannot_be_trained_is_said(fleet, tmp_path, changes, problem, key):
    done = run(fleet(**changes), "--agent", "writer")
    assert isinstance(done.exception, FleetError)
    assert problem in done.exception.problem and key in done.exception.where
    assert left_in(tmp_path) == set()


def test_an_unknown_agent_and_a_faulty_row_are_said(fleet, tmp_path):
    assert isinstance(run(fleet(), "--agent", "writr").exception, FleetError)
    done = run(fleet(rows=[*ROWS, {"prompt": "What is a heap?"}]), "--agent", "writer")
    assert isinstance(done.exception, DataError) and done.exception.where == f"{tmp_path / 'rows.jsonl'}:4"
    assert left_in(tmp_path) == set()
    assert isinstance(run(fleet(rows=[{}]), "--agent", "writer", "--dry-run").exception, DataError)


@pytest.mark.parametrize("stage", ["training", "done"])
def test_an_interruption_leaves_the_store_as_it_was(fleet, tmp_path, stage):
    def interrupt(progress: Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(load_fleet(fleet()), "writer", on_progress=interrupt)
    assert left_in(tmp_path) == set()


def test_exit_codes(fleet, capsys):
    assert main(["train", str(fleet(adapter="")), "--agent", "writer"]) == 2
    assert "adapter: writer@production" in capsys.readouterr().err
    assert main(["train", str(fleet(recipe=RECIPE.replace("5.0e-3", "1.0e-12"))), "--agent", "writer"]) == 1


def test_figures_as_people_read_them():
    assert [clock(s) for s in (0.4, 41, 725, 3729)] == ["0:00", "0:41", "12:05", "1:02:09"]
    progress = Progress("training", "step 1 of 2", 1, 2, loss=0.4121, tokens_s=1834.2, seconds_left=41)
    assert numbers(progress) == "loss 0.412, 1,834 tokens/s, 0:41 left"
