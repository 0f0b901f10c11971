"""Result files survive a round trip, say what is wrong with a bad one, and are never half written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.errors import DiskFull, ResultError
from onecard.evidence import results
from onecard.evidence.results import RequestRecord, ResultFile, Step, read_results, to_csv, to_json, write_results

COLUMNS = (
    "model,quantization,engine,adapters,callers,repeat,requests,"
    "p50_ms,p95_ms,p99_ms,avg_ms,ttft_p50_ms,itl_p50_ms,rps,tokens_s,gpu_mem_gib,errors"
)


def record(**changes: Any) -> RequestRecord:
    return RequestRecord.model_validate(
        {
            "caller": 0,
            "prompt": 3,
            "agent": "explainer",
            "preset": "terse",
            "intended_s": 0.0,
            "sent_s": 0.001,
            "first_token_s": 0.04,
            "pieces_s": [0.04, 0.05],
            "end_s": 0.051,
            "outcome": "ok",
            "new_tokens": 2,
            "adapter": "style@v0001",
            "http_status": 200,
            **changes,
        }
    )


def result(*steps: Step) -> ResultFile:
    what = {
        "url": "http://127.0.0.1:1",
        "agents": ["explainer"],
        "model": "embedded:mini",
        "adapters": ["style@v0001", "quiz@v0002"],
    }
    where = {
        "server": "this machine",
        "cpu": "a CPU",
        "cores": 2,
        "ram_gib": 4,
        "system": "Linux",
        "versions": {"onecard": "0"},
    }
    how = {
        "callers": [1],
        "requests": 2,
        "repeats": 1,
        "warmup_requests": 1,
        "seed": 0,
        "timeout_s": 10,
        "prompts": "p.jsonl",
        "prompts_sha256": "ab",
        "prompts_rows": 3,
    }
    times = {"started_at": "2026-11-21T12:00:00+00:00", "ended_at": "2026-11-21T12:01:00+00:00"}
    return ResultFile.model_validate(
        {"schema": results.SCHEMA, **times, "what": what, "where": where, "how": how, "steps": steps}
    )


def one_step(*requests: RequestRecord) -> Step:
    return Step(callers=1, repeat=1, started_at="2026-11-21T12:00:00+00:00", requests=requests or (record(), record()))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = result(one_step(), one_step(record(outcome="broken", detail='cut "off" \n, <b>')))
    table = write_results(tmp_path / "new folder" / "run.json", written)
    assert read_results(tmp_path / "new folder" / "run.json") == written
    assert table == tmp_path / "new folder" / "run.csv"
    assert sorted(path.name for path in table.parent.iterdir()) == ["run.csv", "run.json"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    details=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4),
    times=st.lists(st.floats(0, 1e6), min_size=1, max_size=6),
)
def test_any_record_survives(tmp_path: Path, details: list[str], times: list[float]) -> None:
    moments = sorted(round(time, 6) for time in times)
    rows = [
        record(
            intended_s=moments[0],
            sent_s=moments[0],
            pieces_s=moments,
            first_token_s=moments[0],
            end_s=moments[-1],
            detail=text,
        )
        for text in details
    ]
    written = result(Step(callers=1, repeat=1, started_at="", requests=tuple(rows)))
    file = tmp_path / "run.json"
    write_results(file, written)
    assert read_results(file) == written


def test_every_request_stands_on_its_own_line() -> None:
    lines = to_json(result(one_step(record(caller=0), record(caller=0, prompt=4)))).splitlines()
    assert [json.loads(line.strip().rstrip(","))["prompt"] for line in lines if '"prompt":' in line] == [3, 4]


def test_the_csv_has_exactly_the_documented_columns_and_a_row_a_step() -> None:
    text = to_csv(result(one_step(), Step(callers=3, repeat=2, started_at="", requests=(record(outcome="error"),))))
    assert text.splitlines()[0] == COLUMNS
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["model"], first["adapters"], first["callers"], first["requests"]) == (
        "embedded:mini",
        "style@v0001;quiz@v0002",
        "1",
        "2",
    )
    assert float(first["p50_ms"]) == pytest.approx(51)
    assert float(first["ttft_p50_ms"]) == pytest.approx(40)
    assert (first["p95_ms"], first["p99_ms"], first["quantization"], first["gpu_mem_gib"]) == ("", "", "", "")
    assert (second["callers"], second["repeat"], second["errors"], second["p50_ms"], second["rps"]) == (
        "3",
        "2",
        "1",
        "",
        "0.0",
    )


def broken(**changes: Any) -> str:
    document = json.loads(to_json(result(one_step())))
    document.update(changes)
    return json.dumps(document)


BAD_FILES = {
    "empty": ("", "empty"),
    "blank": (" \n ", "empty"),
    "cut": (to_json(result(one_step()))[:400], "not valid JSON"),
    "a list": ("[]", "not a result file"),
    "another JSON": ('{"name": "x"}', "no schema number"),
    "a schema that is text": (broken(schema="1"), "no schema number"),
    "schema true": (broken(schema=True), "no schema number"),
    "from the future": (broken(schema=99), "newer onecard"),
    "an unknown kind": (broken(kind="dance"), "broken"),
    "an unknown key": (broken(surprise=1), "broken"),
    "no steps": (broken(steps=None), "broken"),
    "not a number": (to_json(result(one_step())).replace('"end_s": 0.051', '"end_s": NaN'), "broken"),
    "time runs backwards": (to_json(result(one_step())).replace('"end_s": 0.051', '"end_s": -4'), "backwards"),
    "first token is not the first piece": (
        to_json(result(one_step())).replace('"first_token_s": 0.04', '"first_token_s": 0.05'),
        "first of",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_name_and_a_reason(tmp_path: Path, name: str) -> None:
    text, reason = BAD_FILES[name]
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(ResultError, match=reason) as caught:
        read_results(file)
    assert str(file) in str(caught.value.where)
    assert caught.value.next_step


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80"])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(ResultError, match="not a text file"):
        read_results(file)


def test_a_csv_is_pointed_to_the_json_beside_it(tmp_path: Path) -> None:
    table = write_results(tmp_path / "run.json", result(one_step()))
    with pytest.raises(ResultError, match=r"give the \.json beside it"):
        read_results(table)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no such file"):
        read_results(tmp_path / "nope.json")
    with pytest.raises(ResultError, match="cannot be read"):
        read_results(tmp_path)


def test_older_schemas_are_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "old.json"
    file.write_text(broken(schema=1, machine="a CPU"))
    before = file.read_text()
    monkeypatch.setattr(results, "SCHEMA", 3)
    monkeypatch.setitem(
        results.MIGRATIONS, 1, lambda document: {**document, "kind": document["kind"], "stepping": True}
    )
    monkeypatch.setitem(
        results.MIGRATIONS,
        2,
        lambda document: {key: value for key, value in document.items() if key not in ("machine", "stepping")},
    )
    migrated = read_results(file)
    assert migrated.schema_version == 3
    assert migrated.steps == result(one_step()).steps
    assert file.read_text() == before


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_results(file, result(one_step()))
    before = file.read_text()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(DiskFull, match="full"):
        write_results(file, result(one_step(), one_step()))
    assert file.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.csv", "run.json"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        write_results(tmp_path / "file" / "run.json", result(one_step()))
