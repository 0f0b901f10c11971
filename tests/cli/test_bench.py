"""`onecard bench sweep` as a person meets it: files, a table, the next command, and clear words when something is wrong."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onecard.benchmark import sweep as sweep_module
from onecard.cli.main import main
from onecard.evidence.results import CSV_COLUMNS, RequestRecord, read_results
from onecard.wire.fake_server import FakeServer

QUICK = ["--callers", "1,2", "--requests", "3", "--repeats", "2"]
FLEET = """
name: tiny
card: {vram_gib: 4, bandwidth_gbs: 20}
models:
  base: {id: "embedded:mini"}
agents:
  explainer:
    model: base
    presets: {terse: {max_new_tokens: 8}, verbose: {max_new_tokens: 32}}
    suite: {data: held-out.jsonl, checks: [{preset: terse, max_tokens: 8}]}
"""


@contextmanager
def served(**settings: Any) -> Iterator[FakeServer]:
    server = FakeServer(**{"models": ("explainer",), "tokens": 2, **settings})
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with server:
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONECARD_API_KEY", raising=False)
    return tmp_path


@pytest.fixture
def fleet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet whose service is the fake server: what is tested here is the way to it, not the engine."""

    @contextmanager
    def background(loaded: Any, port: int = 0, *, on_progress: Any) -> Iterator[Any]:
        on_progress("loading base")
        with served(headers={"x-onecard-adapter": "style@v0001"}) as server:
            (folder / "seen").write_text("")
            yield SimpleNamespace(url=server.url)
            (folder / "seen").write_text(json.dumps([seen.body for seen in server.seen]))

    monkeypatch.setattr("onecard.cli.serve.serve_in_background", background)
    rows = [{"prompt": f"held out {n}", "completion": "x", "preset": ("terse", "verbose")[n % 2]} for n in range(6)]
    (folder / "held-out.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "tiny.yaml").write_text(FLEET)
    return folder / "tiny.yaml"


def only_result(folder: Path) -> Path:
    (found,) = (folder / "results").glob("*.json")
    return found


def test_a_url_is_measured_into_two_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served() as server:
        assert main(["bench", "sweep", server.url, *QUICK]) == 0
    said = capsys.readouterr()
    file = only_result(folder)
    assert f"onecard report results/{file.name}" in said.out
    assert "callers" in said.out and "p50" in said.out and "milliseconds" in said.out and "req/s" in said.out
    assert "2 callers, repeat 2: p50" in said.err
    result = read_results(file)
    assert [len(step.requests) for step in result.steps] == [3, 3, 6, 6]
    assert (result.how.prompts, result.where.server) == ("shipped questions", "this machine")
    with file.with_suffix(".csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["callers"], row["repeat"]) for row in rows] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


def test_the_command_that_is_recorded_repeats_the_measurement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECARD_API_KEY", "sk-secret")
    (folder / "my prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    asked = ["--prompts", "my prompts.jsonl", "--max-new-tokens", "5", "--preset", "terse", "--seed", "3"]
    with served() as server:
        assert main(["bench", "sweep", server.url, *QUICK, *asked]) == 0
        assert server.seen[-1].headers["authorization"] == "Bearer sk-secret"
        first = only_result(folder)
        command = read_results(first).how.command or ""
        assert "sk-secret" not in first.read_text()
        first.rename(folder / "first.json")
        import shlex

        assert main(shlex.split(command)[1:]) == 0
    one, other = read_results(folder / "first.json"), read_results(only_result(folder))
    assert one.how == other.how
    assert [r.prompt for s in one.steps for r in s.requests if r.caller == 0] == [
        r.prompt for s in other.steps for r in s.requests if r.caller == 0
    ]


def test_json_for_scripts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served() as server:
        assert main(["bench", "sweep", server.url, *QUICK, "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert said.err == ""
    assert (document["complete"], document["stopped_because"]) == (True, None)
    assert [point["callers"] for point in document["callers"]] == [1, 2]
    assert document["callers"][0]["p50_ms"]["median"] > 0
    assert Path(document["result"]).exists() and Path(document["csv"]).exists()


def test_a_fleet_is_served_and_asked_its_held_out_rows(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sweep", str(fleet), *QUICK]) == 0
    result = read_results(only_result(fleet.parent))
    assert (result.what.fleet, result.what.agents, result.where.server) == ("tiny", ("explainer",), "this process")
    assert result.what.fleet_digest and len(result.what.fleet_digest) == 64
    assert (result.how.prompts, result.how.prompts_rows) == ("held-out.jsonl", 6)
    assert {r.preset for step in result.steps for r in step.requests} == {"terse", "verbose"}
    assert result.what.adapters == ("style@v0001",)
    bodies = json.loads((fleet.parent / "seen").read_text())
    assert all(body["messages"][0]["content"].startswith("held out") for body in bodies if body)
    assert "loading base" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [7]
    record = sweep_module.closed_loop

    async def interrupted(*positional: Any, on_request: Any = lambda record: None, **named: Any) -> None:
        def count(request: RequestRecord) -> None:
            on_request(request)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)

        await record(*positional, on_request=count, **named)

    monkeypatch.setattr(sweep_module, "closed_loop", interrupted)
    with served(ttft_s=0.02) as server:
        assert main(["bench", "sweep", server.url, "--callers", "1", "--requests", "50", "--warmup", "0"]) == 130
    said = capsys.readouterr()
    result = read_results(only_result(folder))
    assert not result.complete and 7 <= len(result.steps[0].requests) < 50
    assert "partial: interrupted" in said.out and "onecard report" in said.out


def test_a_server_that_dies_leaves_a_partial_result_and_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(error_every=1) as server:
        assert main(["bench", "sweep", server.url, *QUICK]) == 2
    said = capsys.readouterr()
    assert not read_results(only_result(folder)).complete
    assert "fails on purpose" in said.err and only_result(folder).name in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:9", "--model", "x"], "nothing answers"),
        (["http://127.0.0.1:9"], "nothing answers"),
        (["nope.yaml", "--model", "x"], "no such file"),
        (["http://127.0.0.1:9", "--model", "x", "--callers", "6..1"], "not a number of callers"),
        (["http://127.0.0.1:9", "--model", "x", "--prompts", "nope.jsonl"], "no such file of prompts"),
        (["http://127.0.0.1:9", "--model", "x", "--requests", "0"], "--requests"),
        (["http://", "--model", "x"], "not a URL"),
        (["http://127.0.0.1:9", "--model", "x", "--out", "a-file/results"], "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (folder / "a-file").write_text("")
    assert main(["bench", "sweep", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(folder.glob("results/*.json"))


def test_several_models_are_listed_and_not_guessed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(models=("explainer", "quizmaster")) as server:
        assert main(["bench", "sweep", server.url]) == 2
    error = capsys.readouterr().err
    assert "explainer, quizmaster" in error and "--model explainer" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "explaner"], "did you mean 'explainer'?"),
        (["--preset", "ters"], "did you mean 'terse'?"),
    ],
)
def test_a_fleets_own_names_are_checked_before_it_is_loaded(
    fleet: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["bench", "sweep", str(fleet), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (fleet.parent / "seen").exists()


def test_a_result_that_cannot_be_written_at_the_end_is_kept_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder / "elsewhere"))
    (folder / "elsewhere").mkdir()
    run = sweep_module.Sweep.run

    def run_and_lose_the_folder(self: Any) -> Any:
        result = run(self)
        shutil.rmtree(folder / "results")
        (folder / "results").write_text("")
        return result

    monkeypatch.setattr(sweep_module.Sweep, "run", run_and_lose_the_folder)
    with served() as server:
        assert main(["bench", "sweep", server.url, *QUICK]) == 2
    (kept,) = (folder / "elsewhere").glob("sweep-*.json")
    assert read_results(kept).complete
    assert str(kept) in capsys.readouterr().err.replace("\n", "")
