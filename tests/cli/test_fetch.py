"""`onecard fetch` as a person runs it, against a hub on loopback: order, exit codes, what is said and what lies on the disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from onecard.cli.main import main
from onecard.weights import fetch_cache
from onecard.weights.inventory import resolve
from onecard.weights.places import hub_cache

SIZE = 1_000_000
# ONECARD_TEST_KILLS=50 makes it 50 kills; a dozen take a few seconds.
KILLS = os.environ.get("ONECARD_TEST_KILLS", "12")
SCRIPT = Path(__file__).with_name("kill_and_resume.py")


@pytest.fixture(autouse=True)
def _here(own_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own to run in, and an environment that what `.env` sets does not outlive."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def model(hub: Any, tmp_path: Path) -> Any:
    weights = tmp_path / "weights"
    weights.write_bytes(random.Random(5).randbytes(SIZE))
    files = {
        "config.json": b'{"model_type": "llama", "auto_map": {}}', "tokenizer.json": b"{}", "model.safetensors": weights,
        "pytorch_model.bin": b"pickle", "modeling_x.py": b"raise SystemExit", "LICENSE": b"free",
    }  # fmt: skip
    os.environ["HF_ENDPOINT"] = hub.url
    return hub.add("org/name", files, card={"license": "apache-2.0"})


def snapshot() -> Path:
    return resolve("org/name", Path("/nowhere"))


def weight_requests(hub: Any) -> list[str]:
    return [one.path for one in hub.seen if one.host == "blobs"]


def test_what_use_makes_active_for_a_role_is_what_fetch_brought(hub: Any, model: Any, capsys: Any) -> None:
    """Document B's 8 GB card takes the 4-bit copy; the hub has the original too, and nobody asks for it."""
    original, copy = "meta-llama/Llama-3.1-8B-Instruct", "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
    for name in (original, copy):
        hub.add(name, model.files, card={"license": "llama3.1"})
    assert main(["fetch", "primary", "--card", "rtx-3070", "--json"]) == 0
    (fetched,) = json.loads(capsys.readouterr().out)["models"]
    assert main(["use", "primary", "--card", "rtx-3070", "--json"]) == 0
    active = json.loads(capsys.readouterr().out)["active"]
    assert active["repository"] == copy
    assert active["path"] == fetched["path"] == str(resolve(copy, Path("/nowhere")))
    assert not [one for one in hub.seen if original in one.path]
    assert main(["fetch", original, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["path"] == str(resolve(original, Path("/nowhere")))


def test_it_says_what_comes_fetches_it_and_says_where_it_lies(hub: Any, model: Any, capsys: Any) -> None:
    assert main(["fetch", "org/name"]) == 0
    said = capsys.readouterr()
    assert said.out == f"org/name: whole, 4 files checked: {snapshot()}\n"
    for words in (
        "Apache License 2.0, fully open",
        "to fetch: 977 KiB",
        "pytorch_model.bin (a pickle",
        "modeling_x.py (code",
    ):
        assert words in said.err
    assert sorted(file.name for file in snapshot().iterdir()) == [
        "LICENSE",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_what_is_whole_is_skipped_and_what_is_damaged_is_said(hub: Any, model: Any, capsys: Any) -> None:
    main(["fetch", "org/name"])
    hub.seen.clear()
    assert main(["fetch", "org/name"]) == 0
    assert "all here and whole, by size and hash" in capsys.readouterr().err
    assert not weight_requests(hub)
    blob = (snapshot() / "model.safetensors").resolve()
    blob.write_bytes(b"x" * SIZE)
    assert main(["fetch", "org/name"]) == 0
    assert "damaged: model.safetensors: its hash is not the hub's; it is fetched again" in capsys.readouterr().err
    assert blob.read_bytes() == model.files["model.safetensors"].read_bytes()


def test_json_for_scripts(hub: Any, model: Any, capsys: Any) -> None:
    assert main(["fetch", "org/name", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    (record,) = json.loads(said.out)["models"]
    assert (record["path"], record["commit"], record["licence"]) == (str(snapshot()), model.commit, "apache-2.0")
    assert record["fetched_bytes"] == record["bytes"] > SIZE
    assert {one["was"] for one in record["files"]} == {"absent"}
    assert all(one["digest"].startswith(("sha256:", "git-sha1:")) for one in record["files"])


def test_offline_what_is_here_is_checked_and_nobody_asked(hub: Any, model: Any, capsys: Any) -> None:
    assert main(["fetch", "org/name", "--offline"]) == 2
    assert "the hub was not asked" in capsys.readouterr().err
    main(["fetch", "org/name"])
    hub.seen.clear()
    capsys.readouterr()
    assert main(["fetch", "org/name", "--offline"]) == 0
    assert f"whole, 4 files: {snapshot()}" in capsys.readouterr().out
    (snapshot() / "model.safetensors").resolve().write_bytes(b"short")
    assert main(["fetch", "org/name", "--offline"]) == 1
    assert "not whole: model.safetensors" in capsys.readouterr().out
    os.environ["HF_HUB_OFFLINE"] = "1"
    assert main(["fetch", "org/name", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["whole"] is False
    assert not hub.seen


def test_the_disk_is_checked_before_the_first_byte(
    hub: Any, model: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_cache, "free_bytes", lambda cache: 500_000)
    assert main(["fetch", "org/name"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "needs 977 KiB, and 488 KiB are free" in said and "nothing was downloaded" in said
    assert not weight_requests(hub) and not hub_cache().exists()


def test_a_gated_model_stops_everything_before_the_first_byte(hub: Any, model: Any, capsys: Any) -> None:
    hub.add("org/gated", model.files, gated="manual", open_record=True)
    assert main(["fetch", "org/name", "org/gated"]) == 2
    said = capsys.readouterr().err
    assert f"accept its terms at {hub.url}/org/gated" in said and "HF_TOKEN" in said
    assert not weight_requests(hub) and not hub_cache().exists()


def test_code_comes_with_a_choice_that_is_written_down(hub: Any, model: Any, capsys: Any) -> None:
    assert main(["fetch", "org/name", "--allow-code", "org/nmae"]) == 2
    assert "did you mean 'org/name'" in capsys.readouterr().err
    assert main(["fetch", "org/name", "--allow-code", "org/name"]) == 0
    assert (snapshot() / "modeling_x.py").is_file() and not (snapshot() / "pytorch_model.bin").exists()
    record = json.loads((hub_cache() / "models--org--name" / "allowed_code.json").read_text())
    assert record["choices"][0]["commit"] == model.commit
    assert list(record["choices"][0]["files"]) == ["modeling_x.py"]


def test_a_revision_is_its_commit_and_an_unknown_one_is_said(hub: Any, model: Any, capsys: Any) -> None:
    assert main(["fetch", "org/name", "--revision", model.commit]) == 0
    assert (hub_cache() / "models--org--name" / "snapshots" / model.commit / "config.json").is_file()
    assert main(["fetch", "org/name", "--revision", "v9"]) == 2
    assert "no such revision" in capsys.readouterr().err


def test_the_models_of_a_fleet_go_where_the_env_beside_it_says(
    hub: Any, model: Any, tmp_path: Path, capsys: Any
) -> None:
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "team.yaml").write_text(
        "name: team\ncard: rtx-3090\nmodels:\n  base: {id: org/name, context: 512, concurrency: 1}\nagents:\n  one: {model: base}\n"
    )
    (fleet / ".env").write_text("ONECARD_MODELS=models\n")
    assert main(["fetch", "--fleet", str(fleet / "team.yaml")]) == 0
    assert f"from {fleet / '.env'}: ONECARD_MODELS" in capsys.readouterr().err
    assert (fleet / "models" / "models--org--name" / "refs" / "main").read_text() == model.commit


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "models of a fleet"),
        (["Qwen/Qwen3-8B-Instruct"], "use Qwen/Qwen3-8B"),
        (["org/none"], "no model org/none"),
        (["primry"], "did you mean 'primary'"),
        (["--fleet", "none.yaml"], "no such file"),
    ],
)
def test_a_wrong_use_is_exit_2_with_the_next_step(
    hub: Any, model: Any, capsys: Any, arguments: list[str], words: str
) -> None:
    assert main(["fetch", *arguments]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_who_says_no_is_not_fetched_for(hub: Any, model: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("onecard.cli.fetch.sys", type("sys", (), {"stdin": Terminal()}))
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert main(["fetch", "org/name"]) == 1
    assert not weight_requests(hub)
    assert main(["fetch", "org/name", "--yes"]) == 0


def test_a_ctrl_c_keeps_what_has_come_and_the_same_command_resumes(hub: Any, model: Any) -> None:
    hub.pause_s = 0.05
    command = [sys.executable, "-m", "onecard.cli.main", "fetch", "org/name"]
    running = subprocess.Popen(
        command,
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while (
        time.monotonic() < deadline
        and running.poll() is None
        and not any(
            part.stat().st_size > 0 for part in hub_cache().glob("models--*/blobs/*.incomplete") if len(part.stem) == 64
        )
    ):
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted: what has come is kept" in said and "Traceback" not in said
    hub.pause_s = 0.0
    hub.seen.clear()
    assert main(["fetch", "org/name"]) == 0
    assert next(one.headers["range"] for one in hub.seen if one.host == "blobs").startswith("bytes=")
    assert (snapshot() / "model.safetensors").read_bytes() == model.files["model.safetensors"].read_bytes()


def test_it_starts_without_torch_and_without_the_hub_library() -> None:
    code = (
        "import sys, onecard.cli.fetch as f; f.fetch(['--help'], standalone_mode=False);"
        "print({'torch', 'huggingface_hub'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.rstrip().endswith("set()")


def tree(folder: Path) -> dict[str, str]:
    """What the links of a repository lead to, and its names of revisions, by hash."""
    files = sorted(file for kind in ("snapshots", "refs") for file in (folder / kind).rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def test_killed_at_random_points_it_ends_as_if_it_had_not_been(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    chance = random.Random(7)
    names = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    files: dict[str, Any] = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}" * 40_000}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {name: name for name in names}}).encode()
    for name in names:
        files[name] = tmp_path / name
        files[name].write_bytes(chance.randbytes(chance.randrange(2_000_000, 5_000_000)))
    hub.add("org/name", files)
    hub.pause_s = 0.004
    killed = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "killed")}
    left_alone = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "alone")}

    done = subprocess.run(
        [sys.executable, str(SCRIPT), "org/name", KILLS, "1", "0.2"], env=killed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    print(told)  # shown with -s
    assert told["kills"] == int(KILLS)
    assert told["kills_with_a_beginning"] > told["kills"] // 3, "most kills struck outside a download"
    assert told["exit"] == 0
    assert told["whole"] == 1

    hub.pause_s = 0.0
    subprocess.run([sys.executable, "-m", "onecard.cli.main", "fetch", "org/name"], env=left_alone, check=True)
    ends = [tree(tmp_path / which / "models--org--name") for which in ("killed", "alone")]
    assert ends[0] == ends[1]
    assert len(ends[0]) == len(files) + 1
    assert not list((tmp_path / "killed").rglob("*.incomplete"))
    asked = [one for one in hub.seen if one.host == "blobs" and "range" in one.headers]
    assert asked, "nothing was resumed: every download began at its first byte"
