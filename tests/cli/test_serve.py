"""`onecard serve` as people run it: a process on a port, its check, and the errors before anything is loaded."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from onecard.cli.main import main
from onecard.cli.serve import serve_in_background
from onecard.errors import InputError
from onecard.fleet.loader import load_fleet
from onecard.serving.keys import KeyRing

PRESETS = {"terse": {"max_new_tokens": 4}, "verbose": {"max_new_tokens": 8}}
FLEET: dict[str, Any] = {
    "name": "bare",
    "card": "auto",
    "models": {"base": {"id": "embedded:mini", "context": 64, "concurrency": 2}},
    "agents": {"teller": {"model": "base", "presets": PRESETS}},
}


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A fleet of one agent without an adapter: nothing to train first."""
    return written(tmp_path, FLEET)


def written(folder: Path, fleet: dict[str, Any]) -> Path:
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump(fleet))
    return file


def test_a_process_serves_until_it_is_interrupted(fleet: Path) -> None:
    ring = KeyRing(fleet.with_name("keys.json"))
    asker = {"authorization": f"Bearer {ring.add('asker', ('infer:teller',))}"}
    log = fleet.with_name("requests.jsonl")
    command = [sys.executable, "-m", "onecard", "serve", str(fleet), "--port", "0", "--json"]
    command += ["--host", "0.0.0.0", "--keys", str(ring.file), "--log", str(log), "--log-prompts"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            url = f"{told['url']}/generate".replace("0.0.0.0", "127.0.0.1")
            answer = httpx.post(url, json={"prompt": "What is a stack?"}, headers=asker, timeout=60)
            stranger = httpx.post(url, json={"prompt": "What is a stack?"}, timeout=60)
            process.send_signal(signal.SIGHUP)
            until(lambda: len(log.read_text().splitlines()) == 3)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert told["adapters"][0]["presets"] == ["terse", "verbose"]
    assert (answer.status_code, answer.json()["style"], answer.headers["x-onecard-agent"]) == (200, "terse", "teller")
    assert 1 <= answer.json()["tokens"] <= 4
    assert (process.returncode, out, errors) == (0, "", "")
    assert stranger.status_code == 401
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["event"], line.get("key"), line.get("status")) for line in lines]
    assert sorted(told, key=str) == [
        ("reload", None, None), ("request", "asker", 200), ("request", None, 401),
    ]  # fmt: skip
    assert (
        next(line["asked"] for line in lines if "asked" in line) == {"prompt": "What is a stack?"}
        and log.stat().st_mode & 0o077 == 0
    )


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_check_asks_every_agent_and_shows_the_memory(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(fleet), "--check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and [probe["agent"] for probe in report["probes"]] == ["teller"]
    held = {part["name"]: part["bytes"] for part in report["health"]["memory"]["parts"]}
    assert held["base weights"] == pytest.approx(report["planned_bytes"]["weights"], rel=0.01)
    assert main(["serve", str(fleet), "--check"]) == 0
    shown = capsys.readouterr()
    assert "1 of 1 agents answer as themselves" in shown.out and "planned  measured" in shown.out
    assert "loading embedded:mini" in shown.err


def test_a_service_in_the_background_has_a_url(fleet: Path) -> None:
    steps: list[str] = []
    with serve_in_background(load_fleet(fleet), on_progress=steps.append) as running:
        assert httpx.get(f"{running.url}/health").json()["fleet"] == "bare"
    assert steps[-1] == "loading embedded:mini"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/health")


def test_a_port_in_use_fails_before_anything_is_loaded(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(fleet), "--port", str(port)]) == 2
    shown = capsys.readouterr().err
    assert f"port {port} is in use" in shown and "--port 0" in shown
    assert "loading" not in shown


def test_a_failed_start_frees_the_port(fleet: Path) -> None:
    broken = load_fleet(written(fleet.parent, {**FLEET, "models": {"base": {"id": "embedded:maxi"}}}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match="embedded:maxi"), serve_in_background(broken, port):
        pass
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("agent", "code", "words"),
    [
        ({"adapter": "tale@production"}, 2, "onecard train"),
        ({"input": "image"}, 2, "agent teller cannot be served"),
    ],
)
def test_an_agent_that_cannot_be_served_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], agent: dict[str, str], code: int, words: str
) -> None:
    fleet = {**FLEET, "agents": {"teller": {"model": "base", **agent}}}
    assert main(["serve", str(written(tmp_path, fleet)), "--port", "0"]) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_other_machines_are_kept_out(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(fleet), "--host", "0.0.0.0"]) == 2
    assert "no keys" in capsys.readouterr().err
    empty = fleet.with_name("keys.json")
    assert main(["serve", str(fleet), "--host", "0.0.0.0", "--keys", str(empty)]) == 2
    assert "onecard keys add" in " ".join(capsys.readouterr().err.split())
    assert main(["serve", str(fleet), "--log-prompts"]) == 2
    assert "without a log" in capsys.readouterr().err


def test_a_port_that_is_none_is_refused(fleet: Path) -> None:
    assert main(["serve", str(fleet), "--port", "70000"]) == 2


def test_the_test_mode_answers_for_a_fleet_of_large_models(capsys: pytest.CaptureFixture[str]) -> None:
    """Document A6: the re-ranker can be tried without a card and without a download."""
    justnews = Path(__file__).parents[2] / "examples" / "justnews-rtx3090.yaml"
    assert main(["serve", str(justnews), "--embedded", "--check", "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    ranker = next(probe for probe in report["probes"] if probe["agent"] == "reranker")
    assert report["passed"] and ranker["text"].startswith("ranks first")
    assert {model["id"] for model in report["health"]["models"]} == {"embedded:mini"}
    assert "reranker answers without mistral_rerank@production" in shown.err
