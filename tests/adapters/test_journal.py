"""The log file: whole lines, torn last lines, corrupt ones, and what it finds out that it missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.adapters.aliases import Aliases
from onecard.adapters.journal import LogEntry, append, cut, read_journal, unrecorded
from onecard.errors import InputError


def line(number: int) -> LogEntry:
    return LogEntry(
        at="2026-11-21T10:00:00Z", by="me", action="publish", version=f"v{number:04d}", reason="naïve\nline"
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 3), st.data())
def test_a_torn_last_line_is_skipped_and_then_cut_off(tmp_path: Path, whole: int, data: st.DataObject) -> None:
    file = tmp_path / "log.jsonl"
    file.unlink(missing_ok=True)
    torn = (line(99).model_dump_json() + "\n").encode()
    keep = data.draw(st.integers(0, len(torn) - 2))
    append(file, [line(number) for number in range(1, whole + 1)])
    before = file.read_bytes()
    file.write_bytes(before + torn[:keep])
    assert read_journal(file) == [line(number) for number in range(1, whole + 1)]
    append(file, [line(50)])
    assert read_journal(file) == [*(line(number) for number in range(1, whole + 1)), line(50)]
    assert file.read_bytes().startswith(before)


def test_a_last_line_that_lacks_only_its_break_counts(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    append(file, [line(1), line(2)])
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    assert read_journal(file) == [line(1), line(2)]
    append(file, [line(3)])
    assert read_journal(file) == [line(1), line(2), line(3)]


@pytest.mark.parametrize("corrupt", [b"{", b"[]", b'{"at": 1}', b"\xff\xfe", b'{"more": 1}'])
def test_a_corrupt_line_is_named(tmp_path: Path, corrupt: bytes) -> None:
    file = tmp_path / "log.jsonl"
    append(file, [line(1)])
    file.write_bytes(corrupt + b"\n" + file.read_bytes())
    with pytest.raises(InputError, match=r"log\.jsonl:1: .*Next"):
        read_journal(file)


def test_appending_can_be_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    cut(file, append(file, [line(1)]))
    assert not file.exists()
    append(file, [line(1)])
    before = file.read_bytes()
    cut(file, append(file, [line(2), line(3)]))
    assert file.read_bytes() == before


def test_the_log_finds_out_what_it_missed() -> None:
    def missed(entries: list[LogEntry], versions: list[str], aliases: Aliases) -> list[tuple[str, str | None]]:
        return [(e.action, e.version) for e in unrecorded(entries, versions, aliases, "now", "me")]

    assert missed([], [], Aliases()) == []
    assert missed([line(1)], ["v0001"], Aliases()) == []
    assert missed([line(1)], ["v0001", "v0002"], Aliases()) == [("appeared", "v0002")]
    assert missed([line(1), line(2)], ["v0002"], Aliases()) == [("vanished", "v0001")]
    assert missed([line(1)], ["v0001"], Aliases(production="v0001")) == [("moved", None)]
    first = unrecorded([line(1)], ["v0002"], Aliases(candidate="v0002"), "now", "me")
    assert missed([line(1), *first], ["v0002"], Aliases(candidate="v0002")) == []
