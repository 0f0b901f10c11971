"""`onecard report`: a page and its pictures from result files, with clear words for files that are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from onecard.cli.main import main
from onecard.evidence.results import ResultFile, write_results


def result(latency_s: float = 0.1, fleet: str | None = "demo") -> ResultFile:
    rows = [
        {
            "caller": 0,
            "prompt": 0,
            "agent": "explainer",
            "intended_s": n * latency_s,
            "sent_s": n * latency_s,
            "end_s": (n + 1) * latency_s,
            "outcome": "ok",
        }
        for n in range(20)
    ]
    return ResultFile.model_validate(
        {
            "started_at": "2026-11-21T12:00:00+00:00",
            "ended_at": "2026-11-21T12:01:00+00:00",
            "what": {"url": "http://127.0.0.1:1", "agents": ["explainer"], "fleet": fleet},
            "where": {"server": "this machine", "cpu": "c", "cores": 2, "ram_gib": 4, "system": "L", "versions": {}},
            "how": {
                "callers": [1],
                "requests": 20,
                "repeats": 1,
                "warmup_requests": 1,
                "seed": 0,
                "timeout_s": 10,
                "prompts": "p",
                "prompts_sha256": "a",
                "prompts_rows": 1,
            },
            "steps": [{"callers": 1, "repeat": 1, "started_at": "", "requests": rows}],
        }
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "run.json", result())
    return tmp_path


def test_a_page_and_its_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "run.json"]) == 0
    page = (folder / "report.html").read_text()
    assert "<h1>demo: measured</h1>" in page and "100 ms" in page
    names = sorted(path.name for path in (folder / "report-plots").iterdir())
    assert names == ["latency.png", "latency.svg", "throughput.png", "throughput.svg"]
    said = capsys.readouterr().out
    assert "report.html" in said and "report-plots/ (4 files" in said


def test_extras_and_a_title(folder: Path) -> None:
    extras = {
        "title": "mine",
        "samples": [{"question": "What is a heap?", "answers": [{"label": "terse", "text": "A tree."}]}],
    }
    (folder / "extras.json").write_text(json.dumps(extras))
    assert main(["report", "run.json", "--extras", "extras.json", "--out", "new/page.html"]) == 0
    page = (folder / "new" / "page.html").read_text()
    assert "<h1>mine</h1>" in page and "What is a heap?" in page
    assert main(["report", "run.json", "--extras", "extras.json", "--title", "<b>over</b>", "--out", "page.html"]) == 0
    assert "<h1>&lt;b&gt;over&lt;/b&gt;</h1>" in (folder / "page.html").read_text()


def test_results_of_one_name_are_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(folder / "monday" / "run.json", result(0.2, fleet=None))
    assert main(["report", "run.json", "monday/run.json", "--json"]) == 0
    page = (folder / "report.html").read_text()
    assert ">monday/run.json<" in page and "demo, Load test: measured" in page
    record = json.loads(capsys.readouterr().out)
    assert record["page"] == "report.html"
    assert "report-plots/comparison.png" in record["pictures"]


def test_without_matplotlib_there_is_a_page_with_tables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", "run.json"]) == 0
    assert "onecard[plots]" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "onecard[plots]" in page and "By callers" in page and "<svg" not in page
    assert not (folder / "report-plots").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("{", "not valid JSON"),
        ('{"schema": 99}', "newer onecard"),
        ('{"a": 1}', "no schema"),
    ],
)
def test_a_file_that_is_no_result_is_named_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    if content is not None:
        (folder / "bad.json").write_text(content)
    assert main(["report", "run.json", "bad.json"]) == 2
    error = capsys.readouterr().err
    assert said in error and "bad.json" in error and "Traceback" not in error
    assert not (folder / "report.html").exists()


def test_at_least_one_result_is_needed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "RESULT.json" in capsys.readouterr().err
