"""`onecard train` as a person or a script sees it, on the embedded base in nf4."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from onecard.adapters.store import Store
from onecard.cli import train_memory
from onecard.cli.main import main
from onecard.cli.report_trainings import named_trainings
from onecard.cli.train import Wishes, run_training, train
from onecard.cli.train_output import clock, numbers
from onecard.errors import DataError, DoesNotFit, FleetError, InputError, MissingPart, StoreBusy
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
RESUMABLE = RECIPE.replace(
    "recipe: {", "recipe: {base_quantization: none, compute_dtype: fp32, checkpoints: {every_steps: 1}, "
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
    assert stored.manifest.base.id == "embedded:mini" and stored.manifest.run.rows == 3
    kept = tmp_path / "modelstore-runs" / "writer-style-v0001"
    assert left_in(tmp_path) == {"modelstore", "modelstore-runs"} and left_in(kept.parent) == {kept.name}
    assert left_in(kept) == {"metrics.jsonl", "loss.png"}
    assert [json.loads(line)["step"] for line in (kept / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert f"Kept: {kept}/" in done.output
    by_file, by_folder = named_trainings([str(kept / "metrics.jsonl"), str(kept)], None)
    (by_address,) = named_trainings(["writer/style@candidate"], str(tmp_path / "modelstore"))
    assert by_file == by_folder == by_address and by_file.label == "writer style@v0001"
    assert by_file.record == stored.manifest.run and len(by_file.points) == 4


def test_json_names_the_version_and_the_store_can_be_another(fleet, tmp_path):
    done = run(fleet(), "--agent", "writer", "--limit-rows", 2, "--store", tmp_path / "elsewhere", "--json")
    record = json.loads(done.stdout)
    assert (record["version"], record["rows"], record["steps"]) == ("v0001", 2, 2)
    assert record["last_loss"] < record["first_loss"] and record["peak_memory_bytes"] > 0
    assert Store(tmp_path / "elsewhere").resolve("writer", "style@v0001").digest == record["digest"]
    assert left_in(tmp_path) == {"elsewhere", "elsewhere-runs"}
    assert Path(record["metrics"]).is_file() and Path(record["loss_curve"]).read_bytes().startswith(b"\x89PNG")
    assert Path(record["run_folder"]) == tmp_path / "elsewhere-runs" / "writer-style-v0001"


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


def interrupted(file: Path, at_step: int, said: list[str], **wishes: object) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.stage == "training" and progress.step == at_step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(load_fleet(file), "writer", on_progress=interrupt, say=said.append, wishes=Wishes(**wishes))


def test_ctrl_c_before_the_first_checkpoint_says_what_is_lost(fleet, tmp_path):
    said: list[str] = []
    interrupted(fleet(), 3, said)
    assert said[-1] == (
        "Stopped before the first checkpoint (every 500 steps or 10 minutes): 3 steps are lost, nothing is left."
    )
    assert left_in(tmp_path) == set()


def test_a_run_goes_on_where_it_was_interrupted(fleet, tmp_path):
    file, said = fleet(recipe=RESUMABLE, quantization="none"), []
    interrupted(file, 2, said, again=f"onecard train {file} --agent writer", store=str(tmp_path / "store"))
    command = f"onecard train {file} --agent writer --store {tmp_path / 'store'} --resume"
    assert said[-1] == f"Stopped at step 2; the checkpoint of step 2 is kept, nothing is lost. To go on: {command}"
    done = run(*command.split()[2:], "--json")
    assert "Going on with the run of writer/style that began at" in done.stderr and "from step 2." in done.stderr
    record = json.loads(done.stdout)
    assert record["resumed_from_step"] == 2 and record["notes"] == ["went on from step 2"]
    metrics = [json.loads(line)["step"] for line in Path(record["metrics"]).read_text().splitlines()]
    assert metrics == [1, 2, 3, 4], "one run, each step once"
    assert [place.name for place in (tmp_path / "store-runs").iterdir()] == ["writer-style-v0001"]


def test_a_changed_run_is_refused_by_what_changed_and_stays(fleet, tmp_path):
    interrupted(fleet(recipe=RESUMABLE, quantization="none"), 2, [])
    changed = RESUMABLE.replace("5.0e-3", "4.0e-3")
    done = run(fleet(recipe=changed, quantization="none"), "--agent", "writer", "--resume")
    assert isinstance(done.exception, InputError) and "recipe's optimizer" in done.exception.problem
    rows = [*ROWS, {"prompt": "What is a heap?", "completion": "A tree.", "preset": "terse"}]
    done = run(fleet(recipe=RESUMABLE, quantization="none", rows=rows), "--agent", "writer", "--resume")
    assert isinstance(done.exception, InputError) and "its data was" in done.exception.problem
    (left,) = (tmp_path / "modelstore-runs").iterdir()
    assert (left / "checkpoint-2").is_dir() and not (tmp_path / "modelstore").exists()


def test_a_run_under_way_is_not_gone_on_with_and_a_new_one_is_told_of_an_old_one(fleet, tmp_path):
    file, said = fleet(recipe=RESUMABLE, quantization="none"), []
    seen: list[object] = []

    def second(progress: Progress) -> None:
        if progress.stage == "training" and progress.step == 2:
            seen.append(run(file, "--agent", "writer", "--resume").exception)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(load_fleet(file), "writer", on_progress=second)
    assert isinstance(seen[0], StoreBusy) and "is under way in another process" in seen[0].problem
    done = run_training(load_fleet(file), "writer", on_progress=lambda progress: None, say=said.append)
    assert said[0].startswith("This is a new run. One that began at") and "checkpoint of step 2" in said[0]
    assert done.resumed_from is None and done.stored.version == "v0001"


def test_without_an_unfinished_run_resume_starts_anew_and_says_so(fleet):
    done = run(fleet(), "--agent", "writer", "--resume")
    assert "No unfinished run of writer/style has a checkpoint: starting anew." in done.stderr
    assert "writer/style@v0001 is published" in done.stdout


def test_killed_at_any_moment_it_comes_to_the_same_adapter_bit_for_bit(fleet, tmp_path):
    file = fleet(recipe=RESUMABLE.replace("rank: 4", "rank: 4, dropout: 0.1"), quantization="none")
    program = Path(__file__).with_name("train_kill_and_resume.py")
    moments = ["rehearsing", "first checkpoint", "saving", "published"]
    done = subprocess.run(
        [sys.executable, str(program), str(file), str(tmp_path / "killed"), *moments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["met"] == moments
    places = [Store(tmp_path / name).versions("writer", "style") for name in ("killed", "killed-reference")]
    assert [[stored.version for stored in versions] for versions in places] == [["v0001"], ["v0001"]]
    assert places[0][0].digest == places[1][0].digest
    assert any("went on from step" in note for note in places[0][0].manifest.run.notes)
    assert left_in(tmp_path / "killed-runs") == {"writer-style-v0001"}
    assert left_in(tmp_path / "killed-runs" / "writer-style-v0001") == {"metrics.jsonl", "loss.png"}


def test_what_does_not_fit_is_refused_before_loading_unless_forced(fleet, tmp_path, monkeypatch):
    monkeypatch.setattr("onecard.catalog.machine.available_ram_bytes", lambda: 20 << 20)
    monkeypatch.setattr("onecard.training.memory.used_bytes", lambda device: 480 << 20)
    recipe = RECIPE.replace("batch: {rows: 2, accumulate: 1}", "batch: {rows: 2, accumulate: 1, packing: false}")
    seen: list[str] = []
    with pytest.raises(DoesNotFit) as refused:
        run_training(load_fleet(fleet(recipe=recipe)), "writer", on_progress=lambda p: seen.append(p.stage))
    assert seen == ["data"], "nothing was loaded"
    assert "of this machine's memory are free" in refused.value.problem and "--force" in refused.value.next_step
    assert refused.value.where.endswith("agents.writer.recipe") and left_in(tmp_path) == set()
    dry = run(fleet(recipe=recipe), "--agent", "writer", "--dry-run")
    assert isinstance(dry.exception, DoesNotFit) and "would be trained" in dry.output
    done = run(fleet(recipe=recipe), "--agent", "writer", "--force")
    assert "does not fit by the plan, and is tried anyway" in done.stderr and "v0001 is published" in done.stdout


def test_the_plan_stands_beside_what_was_measured(fleet, tmp_path):
    done = run(fleet(), "--agent", "writer")
    record = Store(tmp_path / "modelstore").resolve("writer", "style@v0001").manifest.run
    assert record.planned_peak_bytes and record.rehearsed_peak_bytes
    assert f"planned peak {train_memory.format_bytes(record.planned_peak_bytes)}" in done.stderr
    assert "Peak process memory" in done.stdout
    for said in train_memory.beside_measured(record):
        assert said in done.stdout


def test_rows_of_the_suite_are_not_trained_on(fleet, tmp_path):
    (tmp_path / "held-out.jsonl").write_text(json.dumps({"prompt": "What is a queue?", "completion": "A row."}) + "\n")
    file = fleet()
    file.write_text(file.read_text() + "    suite: {data: held-out.jsonl, checks: [{preset: terse, max_tokens: 9}]}\n")
    for options in ((), ("--dry-run",)):
        done = run(file, "--agent", "writer", *options)
        assert isinstance(done.exception, DataError) and "held" in done.exception.problem
    (tmp_path / "held-out.jsonl").unlink()
    assert isinstance(run(file, "--agent", "writer").exception, FleetError)


def test_a_store_at_a_url_keeps_its_runs_in_the_cache(fleet, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record = json.loads(run(fleet(), "--agent", "writer", "--store", "memory://bucket/runs", "--json").stdout)
    assert Path(record["run_folder"]) == tmp_path / "cache" / "onecard" / "runs" / "writer-style-v0001"
    assert Path(record["metrics"]).is_file()


def test_more_cards_than_there_are_and_what_is_no_number_of_cards(fleet, tmp_path):
    done = run(fleet(), "--agent", "writer", "--cards", 64)
    assert isinstance(done.exception, InputError) and "64 cards are asked for" in done.exception.problem
    assert "neither a number" in str(run(fleet(), "--agent", "writer", "--cards", "two").exception)
    assert left_in(tmp_path) == set()


def test_tensorboard_is_asked_for_before_anything_is_loaded(fleet, tmp_path):
    done = run(fleet(), "--agent", "writer", "--tensorboard", tmp_path / "board")
    assert isinstance(done.exception, MissingPart) and "pip install tensorboard" in done.exception.next_step


def test_exit_codes(fleet, capsys):
    assert main(["train", str(fleet(adapter="")), "--agent", "writer"]) == 2
    assert "adapter: writer@production" in capsys.readouterr().err
    assert main(["train", str(fleet(recipe=RECIPE.replace("5.0e-3", "1.0e-12"))), "--agent", "writer"]) == 1


def test_figures_as_people_read_them():
    assert [clock(s) for s in (0.4, 41, 725, 3729)] == ["0:00", "0:41", "12:05", "1:02:09"]
    progress = Progress("training", "", 1, 2, loss=0.4121, tokens_s=1834.2, seconds_left=41, memory_bytes=655 << 20)
    assert numbers(progress) == "loss 0.412, 1,834 tokens/s, 0.64 GiB, 0:41 left"
