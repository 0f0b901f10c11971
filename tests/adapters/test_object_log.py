"""The numbered log: one of two who append wins, everybody sees the same end, and damage is named."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.adapters.aliases import Aliases
from onecard.adapters.fsspec_objects import FsspecObjects
from onecard.adapters.journal import LogEntry
from onecard.adapters.object_log import LogObject, ObjectLog, State, new_id
from onecard.errors import InputError


def an_object(version: str = "v0001", number: int = 0) -> LogObject:
    entry = LogEntry(at="t", by="me", action="publish", version=version, aliases=Aliases(candidate=version))
    return LogObject(id=new_id(), entry=entry, versions={version: str(number)})


@pytest.fixture
def objects(memory_url: str) -> FsspecObjects:
    return FsspecObjects(memory_url)


def test_of_two_who_append_after_the_same_entry_one_wins(objects: FsspecObjects) -> None:
    first, second = ObjectLog(objects, "log"), ObjectLog(objects, "log")
    before = second.state()
    assert before == State()
    assert first.append(first.state(), an_object("v0001"))
    assert not second.append(before, an_object("v0002"))
    assert second.state() == first.state()
    assert second.append(second.state(), an_object("v0002"))
    assert first.state().aliases.candidate == "v0002"
    assert [entry.version for entry in first.entries()] == ["v0001", "v0002"]


def test_a_try_whose_answer_was_lost_knows_its_own_entry(objects: FsspecObjects) -> None:
    log, content = ObjectLog(objects, "log"), an_object()
    objects.create("log/0000000001.json", content.model_dump_json().encode())
    assert log.append(State(), content)
    assert log.state().number == 1


def test_a_crowd_appends_without_a_gap_or_a_loss(objects: FsspecObjects) -> None:
    done: list[str] = []

    def work(who: int) -> None:
        log = ObjectLog(objects, "log")
        for n in range(20):
            content = an_object(f"v{who:02d}{n:02d}")
            while not log.append(log.state(), content):
                pass
            done.append(f"v{who:02d}{n:02d}")

    threads = [threading.Thread(target=work, args=(who,)) for who in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.version or "" for entry in ObjectLog(objects, "log").entries()) == sorted(done)
    assert len(done) == 100


def test_an_entry_that_is_gone_or_torn_is_named(objects: FsspecObjects) -> None:
    log = ObjectLog(objects, "log")
    for _ in range(3):
        assert log.append(log.state(), an_object())
    objects.put("log/0000000002.json", b"{")
    with pytest.raises(InputError, match=r"0000000002\.json: corrupt log entry"):
        log.entries()
    objects.delete(["log/0000000002.json"])
    with pytest.raises(InputError, match=r"0000000002\.json: this entry of the log is gone"):
        ObjectLog(objects, "log").entries()
    objects.put("log/0000000003.json", b"[]")
    with pytest.raises(InputError, match=r"0000000003\.json: corrupt"):
        ObjectLog(objects, "log").state()


@given(content=st.binary(max_size=200))
def test_no_content_of_an_entry_is_a_stack_trace(content: bytes) -> None:
    objects = FsspecObjects("memory://torn-entries/log")
    objects.put("log/0000000001.json", content)
    with pytest.raises(InputError, match="corrupt log entry"):
        ObjectLog(objects, "log").state()


def test_files_of_others_beside_the_entries_do_not_count(objects: FsspecObjects, tmp_path: Path) -> None:
    objects.put("log/readme.txt", b"hello")
    objects.put("log/latest.json", b"{}")
    assert not ObjectLog(objects, "log").exists()
