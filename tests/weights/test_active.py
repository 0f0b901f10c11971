from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import DiskFull, InputError, MachineError, StoreBusy
from onecard.weights.active import (
    ActiveModel,
    ActivePlan,
    active_file,
    check_text,
    files_gone,
    read_active,
    write_active,
)


def record(**changes: Any) -> ActiveModel:
    facts: dict[str, Any] = {
        "id": "org/name",
        "repository": "org/name",
        "quantization": "nf4",
        "context": 8192,
        "concurrency": 1,
        "engine": "local",
        "card": "rtx-3070",
        "asked": "primary",
        "activated_at": datetime(2026, 11, 21, 10, 0, tzinfo=UTC),
        "plan": ActivePlan(by="role primary of the catalog", need_bytes=6, available_bytes=7, fits=True),
    }
    return ActiveModel(**facts | changes)


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_active(tmp_path) is None
    written = record(env={"VLLM_LOGGING_LEVEL": "DEBUG"}, path=str(tmp_path))
    assert write_active(tmp_path, written) == tmp_path / ".active_model"
    assert read_active(tmp_path) == written


WRITERS = """
import sys
from pathlib import Path
from onecard.weights.active import read_active, write_active
folder, base = Path(sys.argv[1]), read_active(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    name = f"writer{sys.argv[2]}/model{number}"
    write_active(folder, base.model_copy(update={"id": name, "repository": name, "asked": "x" * (number * 37)}))
"""


def test_two_hundred_writers_at_once_leave_one_whole_record_and_nobody_ever_reads_half_of_one(tmp_path: Path) -> None:
    write_active(tmp_path, record())
    writers = [python(WRITERS, str(tmp_path), str(number), "50") for number in range(4)]
    while any(writer.poll() is None for writer in writers):
        now = read_active(tmp_path)
        assert now is not None
        assert now.id == now.repository
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    last = read_active(tmp_path)
    assert last is not None
    assert last.id.endswith("/model49")
    assert {file.name for file in tmp_path.iterdir()} == {".active_model", ".active_model.lock"}


def test_threads_of_one_process_take_turns_too(tmp_path: Path) -> None:
    names = [f"org/{number}" for number in range(40)]
    threads = [threading.Thread(target=write_active, args=(tmp_path, record(id=name, asked=name))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = read_active(tmp_path)
    assert last is not None
    assert last.id == last.asked
    assert last.id in names


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupt_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_active(tmp_path, record(id="org/old"))

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_active(tmp_path, record(id="org/new"))
    assert read_active(tmp_path) == record(id="org/old")
    assert {file.name for file in tmp_path.iterdir()} == {".active_model", ".active_model.lock"}
    write_active(tmp_path, record(id="org/new"))
    assert read_active(tmp_path) == record(id="org/new")


KILLED = """
import os, signal, sys
from pathlib import Path
from onecard.weights import active
base = active.read_active(Path(sys.argv[1]))
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
active.write_active(Path(sys.argv[1]), base.model_copy(update={"id": "org/new"}))
"""


def test_a_kill_between_writing_and_renaming_leaves_the_old_record_and_blocks_nobody(tmp_path: Path) -> None:
    write_active(tmp_path, record(id="org/old"))
    process = python(KILLED, str(tmp_path))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read_active(tmp_path) == record(id="org/old")
    write_active(tmp_path, record(id="org/new"))
    assert read_active(tmp_path) == record(id="org/new")
    assert not (tmp_path / ".active_model.tmp").exists()


FULL = """
import resource, sys
from pathlib import Path
from onecard.errors import DiskFull
from onecard.weights.active import read_active, write_active
base = read_active(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    write_active(Path(sys.argv[1]), base.model_copy(update={"id": "org/new"}))
except DiskFull as error:
    print(error)
"""


def test_a_disk_without_room_is_said_and_leaves_the_old_record(tmp_path: Path) -> None:
    write_active(tmp_path, record(id="org/old"))
    out, errors = python(FULL, str(tmp_path)).communicate()
    assert errors == ""
    assert "no room on the disk for the record (what was active stays so)" in out
    assert "onecard weights list" in out
    assert read_active(tmp_path) == record(id="org/old")
    assert not (tmp_path / ".active_model.tmp").exists()


READ_ONLY = """
import os, sys
from pathlib import Path
from onecard.errors import DiskFull, MachineError
from onecard.weights.active import read_active, write_active
base = read_active(Path(sys.argv[1]))
if os.geteuid() == 0:
    os.setuid(65534)
try:
    write_active(Path(sys.argv[1]), base.model_copy(update={"id": "org/new"}))
except MachineError as error:
    print(error)
"""


def test_a_read_only_folder_is_said_and_leaves_the_old_record() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        write_active(folder, record(id="org/old"))
        (folder / ".active_model.lock").unlink()
        folder.chmod(0o555)
        out, errors = python(READ_ONLY, name).communicate()
        folder.chmod(0o755)
        assert errors == ""
        assert "cannot be written: Permission denied (what was active stays so)" in out
        assert "--fleet" in out
        assert read_active(folder) == record(id="org/old")


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        write_active(tmp_path / "nowhere", record())


def test_who_waits_too_long_for_the_lock_is_told(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".active_model.lock"), pytest.raises(StoreBusy, match="somebody else"):
        write_active(tmp_path, record(), lock_timeout_s=0.05)
    assert read_active(tmp_path) is None


def edited(tmp_path: Path, **changes: Any) -> None:
    value = json.loads(record().model_dump_json(by_alias=True)) | changes
    active_file(tmp_path).write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the record is damaged: empty"),
        ("org/name\n", "the record is damaged: not valid JSON"),
        ("[]", "the record is damaged: not a JSON object"),
        ("\xff\x00", "the record is damaged: not valid JSON"),
        ('{"schema": 1, "id": "org/na', "the record is damaged: not valid JSON"),
        ("[" * 100_000, "the record is damaged: not valid JSON"),
        ("x" * 1_000_001, "larger than"),
    ],
)
def test_a_file_that_is_no_record_says_what_it_is_and_how_to_mend_it(tmp_path: Path, text: str, said: str) -> None:
    active_file(tmp_path).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=said) as raised:
        read_active(tmp_path)
    assert "onecard use" in (raised.value.next_step or "")


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"context": "8k"}, "context", "valid integer, got '8k'"),
        ({"context": 3}, "context", "greater than or equal to 16, got 3"),
        ({"quantization": "q4"}, "quantization", "got 'q4'"),
        ({"card": ...}, "card", "the key is missing"),
        ({"contxt": 1}, "contxt", r"unknown key 'contxt' \(did you mean 'context'\?\)"),
        ({"activated_at": "yesterday"}, "activated_at", "got 'yesterday'"),
        ({"id": "a\nb"}, "id", "which no name, path or value may"),
        ({"env": {"A B": "x"}}, "env.A B", "should match pattern"),
        ({"env": {"A": "x\ny"}}, "env", "which no name, path or value may"),
        ({"plan": {"by": "x", "need_bytes": 1, "available_bytes": 1, "fit": True}}, "plan.fit", "did you mean 'fits'"),
        ({"schema": 2}, "", "newer onecard"),
    ],
)
def test_a_half_edited_record_names_the_key(tmp_path: Path, changes: dict[str, Any], key: str, said: str) -> None:
    edited(tmp_path, **changes)
    with pytest.raises(InputError, match=said) as raised:
        read_active(tmp_path)
    assert key in (raised.value.where or "")


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    active_file(tmp_path).mkdir()
    with pytest.raises(InputError, match="a folder, and the record is a file"):
        read_active(tmp_path)
    with pytest.raises(MachineError, match="directory"):
        write_active(tmp_path, record())


@given(st.text())
def test_what_is_let_through_is_one_line_that_any_encoding_of_unicode_can_write(text: str) -> None:
    try:
        check_text(text)
    except ValueError:
        assert not text.isprintable()
    else:
        assert len(text.splitlines()) <= 1
        text.encode()


def test_files_that_are_gone_are_named(tmp_path: Path) -> None:
    place = tmp_path / "model"
    here = record(path=str(place))
    assert files_gone(record()) is None
    assert files_gone(here) == f"its files are gone: no folder {place}"
    place.mkdir()
    assert "no config.json" in (files_gone(here) or "")
    (place / "config.json").write_text("{}")
    assert "no weights" in (files_gone(here) or "")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    (place / "model-1.safetensors").write_bytes(b"")
    assert files_gone(here) == f"its files are gone: model-2.safetensors in {place}"
    (place / "model-2.safetensors").write_bytes(b"")
    assert files_gone(here) is None
    (place / "model.safetensors.index.json").write_text("{")
    assert "cannot be read" in (files_gone(here) or "")


def test_a_disk_error_of_another_kind_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(MachineError, match="Input/output error") as raised:
        write_active(tmp_path, record())
    assert not isinstance(raised.value, DiskFull)
