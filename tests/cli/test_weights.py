"""`onecard weights` as a person at a terminal and as a script sees it: words, JSON, questions and exit codes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onecard.cli.main import main

_spec = importlib.util.spec_from_file_location(
    "hub_cache_maker", Path(__file__).parents[1] / "weights" / "hub_cache_maker.py"
)
assert _spec and _spec.loader
maker: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(maker)

Run = Callable[..., tuple[int, str, str]]
GIB = 1 << 30
KIB = 1024
FLEET = """
name: here
card: {vram_gib: 8, bandwidth_gbs: 100}
models: {base: {id: "o/needed", engine: vllm}, mini: {id: "embedded:mini", context: 512}}
agents: {writer: {model: base}, other: {model: mini}}
"""


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def cache(tmp_path: Path, own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with three models of 256 KiB, used one after the other: o/needed, o/older, o/newer."""
    place = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    for number, id in enumerate(("o/needed", "o/older", "o/newer")):
        maker.write_model(place, id, bytes([number]) * (256 * KIB), used_at=1_000_000 * (number + 1))
    return place


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["weights", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def ids(cache: Path) -> list[str]:
    return sorted(entry.name.removeprefix("models--o--") for entry in cache.iterdir())


def disk_of(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(100 * GIB, 100 * GIB - free, free))


def test_the_list_tells_size_form_use_and_who_needs_it(cache: Path, fleet: Path, run: Run) -> None:
    code, out, _ = run("list", "--fleet", fleet)
    assert code == 0
    lines = out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("o/needed"))
    assert " KiB " in lines[at]
    assert "bf16" in lines[at]
    assert "years ago, written" in lines[at]
    assert f"whole | needed by {fleet}" in " ".join(line.strip() for line in lines[at + 1 : at + 3])
    assert "4 models" in out
    assert "free on the disk" in out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal_but_for_a_long_name(
    cache: Path, fleet: Path, run: Run, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "organisation/" + "a-name-that-goes-on-" * 6
    maker.write_model(cache, long)
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = run("list")
    table = out.split("\n\n")[0].splitlines()
    assert all(len(line) <= max(width, 48 + 20) for line in table if line != long)
    assert long in table


def test_the_list_as_json(cache: Path, fleet: Path, run: Run) -> None:
    code, out, _ = run("list", "--fleet", fleet, "--json")
    said = json.loads(out)
    assert code == 0
    models = {model["id"]: model for model in said["models"]}
    assert models["o/needed"]["needed_by"] == [str(fleet)]
    assert models["o/older"]["used_at"] == 2_000_000
    assert models["embedded:mini"]["removable"] is False
    assert said["bytes"] == sum(model["bytes"] for model in said["models"])


def test_a_fleet_that_was_planned_is_remembered_until_its_file_is_gone(
    cache: Path, fleet: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.write_text(FLEET.replace('base: {id: "o/needed", engine: vllm}, ', "").replace("model: base", "model: mini"))
    assert main(["plan", str(fleet), "--offline"]) == 0
    capsys.readouterr()
    assert json.loads(run("list", "--json")[1])["models"][3]["needed_by"] == [str(fleet)]
    fleet.write_text(FLEET)
    assert run("remove", "o/needed", "--yes")[0] == 1, "the file is read as it is now"
    fleet.write_text("name: [broken")
    assert json.loads(run("list", "--json")[1])["models"][3]["needed_by"] == [str(fleet)], "as it was when it was whole"
    fleet.unlink()
    code, out, _ = run("list")
    assert code == 0
    assert "not there any more" in out
    assert run("remove", "o/needed", "--yes")[0] == 0


def test_what_is_active_here_is_kept(cache: Path, tmp_path: Path, run: Run) -> None:
    from onecard.weights.active import ActiveModel, ActivePlan, write_active

    plan = ActivePlan(by="the model alone", need_bytes=1, available_bytes=2, fits=True)
    record = {"schema": 1, "id": "o/older", "repository": "o/older", "quantization": "none", "context": 512}
    record |= {"concurrency": 1, "engine": "vllm", "card": "rtx-3090", "asked": "o/older", "plan": plan}
    record["activated_at"] = datetime.now(UTC)
    write_active(tmp_path, ActiveModel.model_validate(record))
    code, _, err = run("remove", "o/older", "--yes")
    assert code == 1
    assert ".active_model" in err
    (tmp_path / ".active_model").write_text("{broken")
    assert run("remove", "o/older", "--yes")[0] == 0


def test_where_models_live_may_stand_in_env_here(
    cache: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECARD_MODELS", "put back at the end")
    monkeypatch.delenv("ONECARD_MODELS")
    monkeypatch.delenv("HF_HUB_CACHE")
    (tmp_path / ".env").write_text("ONECARD_MODELS=./hub\n")
    code, out, err = run("list")
    assert code == 0
    assert "o/older" in out
    assert "ONECARD_MODELS" in err


def test_what_verify_finds_fetch_mends(
    hub: Any, hub_server: Any, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a flipped bit in a file whose hash is remembered, whose size and times are as they were."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    published = hub_server.write_safetensors(tmp_path / "w", {"a": ("BF16", (512, 64))})
    hub.add("o/m", {"config.json": b'{"model_type": "llama"}', "model.safetensors": published})
    weights = published.read_bytes()
    assert main(["fetch", "o/m", "--yes"]) == 0
    assert main(["fetch", "o/m", "--yes"]) == 0, "its hash is remembered now"
    assert run("verify", "o/m")[0] == 0
    file = next((cache / "models--o--m" / "snapshots").glob("*/model.safetensors")).resolve()
    status = file.stat()
    file.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, out, _ = run("verify", "o/m")
    assert code == 1
    assert "next: onecard fetch o/m" in out
    assert main(["fetch", "o/m", "--yes"]) == 0
    assert run("verify", "o/m")[0] == 0


def test_a_model_that_onecard_loads_is_loaded_now(cache: Path, run: Run) -> None:
    pytest.importorskip("torch")
    from onecard.engines.local.loading import load_base
    from onecard.weights.inventory import resolve

    before = json.loads(run("list", "--json")[1])["models"][3]
    load_base(resolve("embedded:mini", Path()), "none", double_quantization=False, dtype="bf16", device="cpu")
    after = json.loads(run("list", "--json")[1])["models"][3]
    assert (before["id"], after["used_sign"]) == ("embedded:mini", "loaded")
    assert before["used_sign"] != "loaded"


def test_without_yes_and_without_a_terminal_nothing_goes(cache: Path, run: Run) -> None:
    code, out, err = run("remove", "o/older")
    assert code == 1
    assert "frees 26" in out
    assert "--yes" in err
    assert ids(cache) == ["needed", "newer", "older"]
    code, out, _ = run("remove", "o/older", "--json")
    assert (code, json.loads(out)["removed"]) == (1, False)


def test_a_dry_run_says_what_would_go(cache: Path, run: Run) -> None:
    code, out, _ = run("remove", "o/older", "o/newer", "--dry-run")
    assert code == 0
    assert "2 models" in out
    assert ids(cache) == ["needed", "newer", "older"]


def test_remove_with_yes(cache: Path, run: Run) -> None:
    code, out, _ = run("remove", "o/older", "--yes", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["removed"]
    assert [model["id"] for model in said["remove"]] == ["o/older"]
    assert ids(cache) == ["needed", "newer"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y", 0, ["needed", "newer"]), ("n", 1, ["needed", "newer", "older"])]
)
def test_at_a_terminal_it_asks(cache: Path, answer: str, code: int, left: list[str]) -> None:
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "onecard", "weights", "remove", "o/older"]
    with subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.write(leader, f"{answer}\n".encode())
        _, err = process.communicate(timeout=60)
    os.close(leader)
    os.close(follower)
    assert b"delete for good?" in err
    assert process.returncode == code
    assert ids(cache) == left


def test_what_a_fleet_needs_goes_only_by_force(cache: Path, fleet: Path, run: Run) -> None:
    code, _, err = run("remove", "o/older", "o/needed", "--yes", "--fleet", fleet)
    assert code == 1
    assert str(fleet) in err
    assert "--force" in err
    assert ids(cache) == ["needed", "newer", "older"], "nothing goes when one of them must not"
    assert run("remove", "o/needed", "--yes", "--fleet", fleet, "--force")[0] == 0
    assert ids(cache) == ["newer", "older"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are told by /proc")
def test_what_a_process_uses_goes_by_no_force(cache: Path, run: Run) -> None:
    config = next((cache / "models--o--older" / "snapshots").glob("*/config.json"))
    code = "import sys, time; f = open(sys.argv[1]); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(config)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        answer, _, err = run("remove", "o/older", "--yes", "--force")
        pruned = run("prune", "--until", "500TiB", "--yes")
        process.kill()
    assert answer == 1
    assert f"process {process.pid}" in err
    assert pruned[0] == 1
    assert f"o/older: in use: process {process.pid}" in pruned[1]
    assert ids(cache) == ["older"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are told by /proc")
def test_who_comes_while_it_asks_is_seen(cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = next((cache / "models--o--older" / "snapshots").glob("*/config.json"))
    code = "import sys, time; f = open(sys.argv[1]); print('ready', flush=True); time.sleep(60)"
    started = []

    def answers_late() -> bool:
        started.append(subprocess.Popen([sys.executable, "-c", code, str(config)], stdout=subprocess.PIPE))
        assert started[0].stdout is not None
        started[0].stdout.readline()
        return True

    monkeypatch.setattr("onecard.cli.weights._asked", answers_late)
    answer, _, err = run("remove", "o/older")
    with started[0] as process:
        process.kill()
    assert answer == 1
    assert f"process {process.pid}" in err
    assert "older" in ids(cache)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("remove", "o/oldr"), "did you mean 'o/older'"),
        (("remove", "embedded:mini", "--force", "--yes"), "part of the onecard package"),
        (("verify", "o/nothing"), "no model 'o/nothing'"),
        (("prune", "--until", "50"), "write it like 8GiB"),
        (("list", "--fleet", "no.yaml"), "no.yaml"),
    ],
)
def test_wrong_use_says_what_is_right(cache: Path, run: Run, arguments: tuple[str, ...], word: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert word in " ".join(err.split())
    assert ids(cache) == ["needed", "newer", "older"]


def test_a_folder_of_ones_own_is_never_deleted(cache: Path, tmp_path: Path, fleet: Path, run: Run) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    (own / "config.json").write_text("{}")
    fleet.write_text(FLEET.replace("o/needed", "./mine"))
    code, _, err = run("remove", "./mine", "--yes", "--force", "--fleet", fleet)
    assert code == 2
    assert "delete it yourself" in err
    assert own.is_dir()
    disk_of(monkeypatch := pytest.MonkeyPatch(), 0)
    run("prune", "--until", "50GiB", "--yes", "--force", "--fleet", fleet)
    monkeypatch.undo()
    assert own.is_dir()
    assert ids(cache) == []


def test_prune_frees_just_enough_the_oldest_first(cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_of(monkeypatch, 50 * GIB - 300 * KIB)
    code, out, _ = run("prune", "--until", "50GiB", "--dry-run")
    assert code == 0
    assert "300 KiB to go" in out
    code, out, _ = run("prune", "--until", "50GiB", "--yes", "--json")
    said = json.loads(out)
    assert code == 0
    assert [model["id"] for model in said["remove"]] == ["o/needed", "o/older"]
    assert said["short_bytes"] == 0
    assert ids(cache) == ["newer"]


def test_prune_keeps_what_fleets_need_and_says_what_is_missing(
    cache: Path, fleet: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_of(monkeypatch, 49 * GIB)
    code, out, _ = run("prune", "--until", "50GiB", "--fleet", fleet, "--yes")
    assert code == 1
    assert "stay missing" in out
    assert f"o/needed: needed by {fleet}" in out
    assert ids(cache) == ["needed"]
    assert run("prune", "--until", "50GiB", "--fleet", fleet, "--yes", "--force")[0] == 1
    assert ids(cache) == []


def test_prune_does_nothing_where_enough_is_free(cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_of(monkeypatch, 60 * GIB)
    code, out, _ = run("prune", "--until", "50GiB", "--yes")
    assert code == 0
    assert "nothing goes" in out
    assert json.loads(run("prune", "--until", "50GiB", "--yes", "--json")[1])["removed"] is False
    assert ids(cache) == ["needed", "newer", "older"]


def test_what_an_interrupted_removal_left_is_said_and_goes_first(
    cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "models--o--older").rename(cache / ".onecard-removing--models--o--older-12345678")
    assert "left by an interrupted removal" in run("list")[1]
    disk_of(monkeypatch, 50 * GIB - 200 * KIB)
    assert run("prune", "--until", "50GiB", "--yes")[0] == 0
    assert ids(cache) == ["needed", "newer"], "the leftover was enough"


def test_verify_names_the_damaged_file_and_what_mends_it(cache: Path, run: Run) -> None:
    assert run("verify")[0] == 0
    weights = next((cache / "models--o--older" / "snapshots").glob("*/model.safetensors"))
    weights.resolve().write_bytes(b"x" * (256 * KIB))
    code, out, _ = run("verify")
    assert code == 1
    assert "o/newer: good" in out
    assert "damaged: model.safetensors" in out
    assert "onecard fetch o/older" in out
    assert run("verify", "o/newer", "embedded:mini")[0] == 0
    code, out, _ = run("verify", "o/older", "--json")
    (said,) = json.loads(out)
    assert (code, said["good"], said["mend"]) == (1, False, "onecard fetch o/older")
    assert {file["name"]: file["state"] for file in said["files"]} == {
        "config.json": "good",
        "model.safetensors": "damaged",
    }
