"""The ledger of measurements: whole records, torn and corrupt lines, full disks, several writers."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.errors import DiskFull, InputError, MachineError, ResultError, StoreBusy
from onecard.evidence.ledger import Ledger

AT = "2026-11-21T10:00:00Z"
FORK = multiprocessing.get_context("fork")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "evidence" / "measurements.jsonl")


@ONE_FILE
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4))
def test_what_is_recorded_is_read(ledger: Ledger, payloads: list[dict[str, Any]]) -> None:
    ledger.file.unlink(missing_ok=True)
    written = [ledger.record("serving-memory", payload, AT) for payload in payloads]
    assert ledger.read() == written
    assert [measurement.payload for measurement in ledger.read("serving-memory")] == payloads
    assert ledger.read("training-memory") == []


@ONE_FILE
@given(st.integers(0, 2), st.data())
def test_a_torn_last_line_is_skipped_and_then_cut_off(ledger: Ledger, whole: int, data: st.DataObject) -> None:
    ledger.file.unlink(missing_ok=True)
    ledger.record("speed", {"torn": "é\n" * 3}, AT)
    torn = ledger.file.read_bytes()
    ledger.file.unlink()
    expected = [ledger.record("speed", {"number": number}, AT) for number in range(whole)]
    before = ledger.file.read_bytes() if whole else b""
    ledger.file.write_bytes(before + torn[: data.draw(st.integers(0, len(torn) - 2))])
    assert ledger.read() == expected
    expected.append(ledger.record("speed", {"number": 99}, AT))
    assert ledger.read() == expected
    assert ledger.file.read_bytes().startswith(before)


def test_a_last_line_that_lacks_only_its_break_counts(ledger: Ledger) -> None:
    first = ledger.record("speed", {"number": 1}, AT)
    ledger.file.write_bytes(ledger.file.read_bytes().rstrip())
    assert ledger.read() == [first]
    second = ledger.record("speed", {"number": 2}, AT)
    assert ledger.read() == [first, second]


@pytest.mark.parametrize(
    "corrupt",
    [b"{", b"[]", b"\xff", b'{"kind": "a"}', b'{"schema_version": 99, "kind": "a", "at": "2026-01-01", "payload": {}}'],
)
def test_a_corrupt_line_is_named(ledger: Ledger, corrupt: bytes) -> None:
    ledger.record("speed", {}, AT)
    ledger.file.write_bytes(ledger.file.read_bytes() + corrupt + b"\n")
    with pytest.raises(ResultError, match=r"measurements\.jsonl:2: .*Next"):
        ledger.read()
    before = ledger.file.read_bytes()
    ledger.record("speed", {}, AT)
    assert ledger.file.read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("kind", "payload", "at"),
    [
        ("", {}, AT),
        ("Speed Of Light", {}, AT),
        ("a\n", {}, AT),
        ("speed", {"x": float("nan")}, AT),
        ("speed", {"x": float("inf")}, AT),
        ("speed", {"x": object()}, AT),
        ("speed", {1: 2}, AT),
        ("speed", [], AT),
        ("speed", {}, "yesterday"),
    ],
)
def test_what_cannot_be_recorded_leaves_no_trace(ledger: Ledger, kind: str, payload: Any, at: str) -> None:
    with pytest.raises(InputError, match="cannot be recorded"):
        ledger.record(kind, payload, at)
    assert not ledger.file.exists()


def record_for_ever(file: Path, started: int) -> None:
    os.write(started, b"!")
    while True:
        Ledger(file).record("speed", {"text": "x" * 5000}, AT)


def record_some(file: Path, writer: int) -> None:
    for number in range(10):
        Ledger(file).record("speed", {"writer": writer, "number": number}, AT)


def test_several_writers_lose_nothing(ledger: Ledger) -> None:
    crowd = [FORK.Process(target=record_some, args=(ledger.file, writer)) for writer in range(4)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(60)
        assert process.exitcode == 0
    found = [(m.payload["writer"], m.payload["number"]) for m in ledger.read()]
    assert sorted(found) == [(writer, number) for writer in range(4) for number in range(10)]
    for writer in range(4):
        assert [number for who, number in found if who == writer] == list(range(10))


def test_a_killed_writer_loses_at_most_its_own_record(ledger: Ledger) -> None:
    for attempt in range(5):
        reading, writing = os.pipe()
        victim = FORK.Process(target=record_for_ever, args=(ledger.file, writing))
        victim.start()
        os.read(reading, 1)
        time.sleep(0.003 * attempt)
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        os.close(reading)
        os.close(writing)
        before = ledger.read()
        assert ledger.read() == before
        assert ledger.record("speed", {"attempt": attempt}, AT) == ledger.read()[-1]
        assert ledger.read()[:-1] == before


def record_with_a_limit(file: Path, limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        Ledger(file).record("speed", {"text": "x" * 5000}, AT)
    except DiskFull:
        os._exit(17)


def test_a_full_disk_leaves_the_ledger_as_it_was(ledger: Ledger) -> None:
    """A real limit on the file's size, met in the middle of the record: a part of it is written and taken back."""
    ledger.record("speed", {"number": 1}, AT)
    before = ledger.file.read_bytes()
    process = FORK.Process(target=record_with_a_limit, args=(ledger.file, len(before) + 1000))
    process.start()
    process.join(30)
    assert process.exitcode == 17
    assert ledger.file.read_bytes() == before


def test_the_machines_refusals_are_ours(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResultError, match="cannot be read"):
        Ledger(tmp_path / "folder").read()
    with pytest.raises(MachineError, match="disk refuses"):
        Ledger(tmp_path / "folder").record("speed", {}, AT)
    ledger.record("speed", {}, AT)
    with FileLock(f"{ledger.file}.lock"), pytest.raises(StoreBusy):
        Ledger(ledger.file, lock_timeout_s=0.05).record("speed", {}, AT)


def test_a_line_is_plain_json(ledger: Ledger) -> None:
    ledger.record("speed", {"tokens_s": 14.8}, AT)
    assert json.loads(ledger.file.read_text()) == {
        "schema_version": 1, "kind": "speed", "at": AT, "payload": {"tokens_s": 14.8},
    }  # fmt: skip
