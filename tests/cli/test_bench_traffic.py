"""`onecard bench mix`, `steady`, `context` and `limit` as a person meets them, against a server that is asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from onecard.benchmark import breakdown
from onecard.cli.main import main
from onecard.evidence.results import read_results
from onecard.wire.fake_server import FakeServer


@contextmanager
def served(**settings: Any) -> Iterator[FakeServer]:
    server = FakeServer(**{"models": ("explainer", "quizmaster"), "tokens": 2, **settings})
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


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests share their machine: how late the generator is here says nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONECARD_API_KEY", raising=False)
    monkeypatch.setattr(breakdown, "HARMLESS_MS", 1e6)
    return tmp_path


def said_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    said = capsys.readouterr()
    assert said.err == ""
    document: dict[str, Any] = json.loads(said.out)
    return document


def test_mix_asks_every_agent_and_shows_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(headers={"x-onecard-adapter": "style@v0001"}) as server:
        assert main(["bench", "mix", server.url, "--mix", "zipf", "--requests", "40", "--deadline", "20"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("explainer", "quizmaster", "all", "in time", "style@v0001", "100.0%"))
    assert "needs 368" in out  # 40 requests carry no p99
    (file,) = (folder / "results").glob("mix-*.json")
    assert read_results(file).how.shares == pytest.approx({"explainer": 2 / 3, "quizmaster": 1 / 3}, abs=1e-6)


def test_a_deadline_that_is_not_kept_is_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    with served(ttft_s=0.1) as server:
        asked = [
            "bench",
            "mix",
            server.url,
            "--arrivals",
            "constant:40",
            "--requests",
            "20",
            "--deadline",
            "0.05",
            "--json",
        ]
        assert main(asked) == 1
        assert any(seen.headers.get("x-deadline-ms") == "50" for seen in server.seen)
    document = said_json(capsys)
    everything = document["agents"][-1]
    assert (everything["name"], everything["goodput"]["within"], everything["goodput"]["count"]) == ("all", 0, 20)
    assert everything["latency_ms"]["p99"]["enough"] is False and everything["latency_ms"]["p99"]["needed"] == 368


def test_steady_tells_its_parts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(ttft_s=0.005) as server:
        assert main(["bench", "steady", server.url, "--model", "explainer", "--minutes", "0.02", "--json"]) in (0, 1)
    document = said_json(capsys)
    assert document["parts"][-1]["name"] == "steady" and document["complete"] is True
    assert {"requests", "settled"} == set(document["warm_up"])
    assert read_results(Path(document["result"])).how.stop == "after 1.2 s"


def test_context_shows_what_the_server_counted(capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--requests", "2", "--repeats", "1", "--model", "explainer", "--new-tokens", "2"]
    with served(counts_words=True) as server:
        assert main(["bench", "context", server.url, "--up-to", "200", *quick]) == 0
        shown = capsys.readouterr().out
        assert main(["bench", "context", server.url, *quick]) == 2
    assert "128" in shown and "200" in shown and "198" in shown and "TTFT" in shown
    assert "--up-to" in capsys.readouterr().err  # the server does not say its limit
    with served(counts_words=True, context=150) as server:
        assert main(["bench", "context", server.url, "--contexts", "100,150,300", *quick, "--json"]) == 1
    document = said_json(capsys)
    assert [(row["context_tokens"], row["failed"]) for row in document["contexts"]] == [(100, 0), (150, 0), (300, 2)]


def test_limit_says_its_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    quick = [
        "--model",
        "explainer",
        "--percentile",
        "80",
        "--requests",
        "30",
        "--precision",
        "1",
        "--shape",
        "constant",
    ]
    with served(ttft_s=0.1, slots=2) as server:
        assert main(["bench", "limit", server.url, "--deadline", "0.5", "--guess", "10", *quick]) == 0
    out = capsys.readouterr().out
    assert "p80 within 0.5 s is kept" in out and "kept" in out
    with served(ttft_s=0.2) as server:
        asked = ["bench", "limit", server.url, "--deadline", "0.01", "--guess", "20", "--probes", "2", *quick, "--json"]
        assert main(asked) == 1
    document = said_json(capsys)
    assert document["low_rps"] is None and len(document["probes"]) == 2


def test_a_cut_measurement_is_resumed_by_its_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "explainer", "--requests", "4", "--repeats", "3", "--json"]
    with served() as server:
        assert main(["bench", "mix", server.url, *asked]) == 0
        file = Path(said_json(capsys)["result"])
        whole = read_results(file)
        from onecard.evidence.results import write_results

        write_results(
            file, whole.model_copy(update={"steps": whole.steps[:1], "complete": False, "stopped_because": "x"})
        )
        assert main(["bench", "mix", server.url, *asked, "--resume", str(file)]) == 0
        assert said_json(capsys)["result"] == str(file)
        assert read_results(file).steps[0] == whole.steps[0] and len(read_results(file).steps) == 3
        assert main(["bench", "mix", server.url, *asked, "--seed", "7", "--resume", str(file)]) == 2
    assert "seed was 0, now 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mix", "URL", "--arrivals", "often"], "not a schedule"),
        (["mix", "URL", "--arrivals", "poisson:3", "--callers", "2"], "--callers or --arrivals"),
        (["mix", "URL", "--mix", "nobody=1"], "not among the agents"),
        (["mix", "URL", "--prompt-tokens", "long"], "not a length"),
        (["mix", "URL", "--arrivals", "trace:nope.csv"], "no such trace"),
        (["steady", "URL"], "which agent"),
        (["limit", "URL", "--model", "explainer"], "within which deadline"),
        (["limit", "URL", "--deadline", "1", "--percentile", "99"], "368 or more"),
        (["limit", "URL", "--deadline", "1", "--shape", "waves"], "not a shape"),
        (["context", "URL", "--model", "explainer", "--contexts", "1"], "not a list"),
        (["context", "URL", "--model", "explainer", "--up-to", "64"], "4 and 4 tokens"),
        (["mix", "http://127.0.0.1:9"], "nothing answers"),
        (["mix", "URL", "--resume", "nope.json"], "no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with served() as server:
        assert main(["bench", *(server.url if word == "URL" else word for word in arguments)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error and "Traceback" not in error
