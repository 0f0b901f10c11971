"""`onecard bench compare`: a matrix, one CSV, and clear words for files that cannot be compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from onecard.cli.main import main
from onecard.evidence.results import ResultFile, write_results


def result(model: str, latency_s: float, callers: tuple[int, ...] = (1, 3), **how: Any) -> ResultFile:
    def request(caller: int, number: int, repeat: int) -> dict[str, Any]:
        at_s, took_s = number * 2.0, latency_s * (1 + 0.01 * repeat)
        times = {"intended_s": at_s, "sent_s": at_s, "end_s": at_s + took_s}
        return {"caller": caller, "prompt": 0, "agent": "a", "outcome": "ok", **times}

    steps = [
        {
            "callers": count, "repeat": repeat, "started_at": "",
            "requests": [request(caller, number, repeat) for caller in range(count) for number in range(25)],
        }
        for count in callers
        for repeat in (1, 2, 3)
    ]  # fmt: skip
    return ResultFile.model_validate(
        {
            "started_at": "2026-11-21T12:00:00+00:00", "ended_at": "2026-11-21T12:01:00+00:00",
            "what": {"url": "http://127.0.0.1:1", "agents": ["a"], "model": model, "quantization": "int8"},
            "where": {"server": "this machine", "cpu": "a CPU", "cores": 2, "ram_gib": 4, "system": "Linux", "versions": {}},
            "how": {
                "callers": callers, "requests": 25, "repeats": 3, "warmup_requests": 1, "seed": 0, "timeout_s": 10, "prompts": "p",
                "prompts_sha256": "ab", "prompts_rows": 3, **how,
            },
            "steps": steps,
        }
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "mistral.json", result("mistral", 0.4))
    write_results(tmp_path / "falcon.json", result("falcon", 0.2, callers=(1, 3, 6)))
    return tmp_path


def test_the_best_stands_first(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compare", "mistral.json", "falcon.json", "--csv", "all.csv", "--deadline", "0.3"]) == 0
    out = capsys.readouterr().out
    matrix = out[out.index("p95 ms") :]
    assert matrix.index("falcon int8") < matrix.index("mistral int8")
    assert "with 3 callers" in out and "2.00x" in matrix and "yes" in matrix and "no" in matrix
    rows = list(csv.DictReader((files / "all.csv").open()))
    assert [(row["model"], row["callers"]) for row in rows] == [
        ("mistral", "1"),
        ("mistral", "3"),
        ("falcon", "1"),
        ("falcon", "3"),
        ("falcon", "6"),
    ]


def test_json_and_a_deadline_nobody_keeps(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["bench", "compare", "mistral.json", "falcon.json", "--callers", "1", "--deadline", "0.1", "--json"]) == 1
    )
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["candidates"]] == ["falcon int8", "mistral int8"]
    assert document["callers"] == 1 and document["different_load"] == []
    assert document["candidates"][1]["figures"]["p50_ms"]["ratio"] == pytest.approx(2, rel=1e-3)


def test_an_unfair_comparison_is_said(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(files / "short.json", result("mpt", 0.1, max_new_tokens=8))
    assert main(["bench", "compare", "mistral.json", "short.json"]) == 0
    assert "not the same load: max_new_tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"), [("", "the file is empty"), ("{", "not valid JSON"), ('{"schema": 99}', "newer onecard")]
)
def test_a_file_that_is_no_result_is_named(
    files: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    (files / "bad.json").write_text(content)
    assert main(["bench", "compare", "mistral.json", "bad.json"]) == 2
    error = capsys.readouterr().err
    assert said in error and "bad.json" in error


def test_files_without_a_common_number_of_callers(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(files / "other.json", result("mpt", 0.1, callers=(2,)))
    assert main(["bench", "compare", "mistral.json", "other.json"]) == 2
    assert "no number of callers in common" in capsys.readouterr().err
    assert main(["bench", "compare", "mistral.json", "other.json", "--callers", "2"]) == 0
    assert "without a step of 2 callers: mistral int8" in capsys.readouterr().out
