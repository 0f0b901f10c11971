"""What is remembered of loads and fleets: whole after many writers at once, silent when it cannot be written, gone with the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from onecard.weights import storage_memory as memory

pytestmark = pytest.mark.usefixtures("own_environment")
LOADS_AND_WAITS = """
import sys, time
from pathlib import Path
from onecard.weights.storage_memory import note_use
note_use(Path(sys.argv[1]))
print("loaded", flush=True)
time.sleep(60)
"""


def test_a_load_is_remembered_by_the_real_folder(tmp_path: Path) -> None:
    folder, link = tmp_path / "model", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    before = time.time()
    memory.note_use(link)
    memory.note_use(folder)
    (use,) = memory.uses()
    assert use.folder == folder
    assert before <= use.at <= time.time()


def test_two_hundred_notes_at_once_leave_every_one_whole(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: memory.note_fleet(tmp_path / f"{n % 20}.yaml", ["a/b", str(n % 20)]), range(200)))
    found = memory.fleets()
    assert [fleet.file.name for fleet in found] == sorted(f"{n}.yaml" for n in range(20))
    assert all(fleet.models == ("a/b", fleet.file.stem) for fleet in found)
    assert not list(memory.fleets_folder().glob(".*"))


def test_a_cache_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    memory.note_use(tmp_path)
    memory.note_fleet(tmp_path / "f.yaml", [])
    assert memory.uses() == []
    assert memory.fleets() == []


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"file": 1}', '{"file": "x", "models": 3, "at": 1}', "\xff"])
def test_a_broken_note_is_left_out(tmp_path: Path, content: str) -> None:
    memory.note_fleet(tmp_path / "good.yaml", ["a/b"])
    (memory.fleets_folder() / "broken.json").write_text(content, encoding="latin-1")
    assert [fleet.file.name for fleet in memory.fleets()] == ["good.yaml"]


def test_a_fleet_can_be_forgotten(tmp_path: Path) -> None:
    memory.note_fleet(tmp_path / "f.yaml", [])
    memory.forget_fleet(tmp_path / "f.yaml")
    assert memory.fleets() == []


@contextmanager
def loading(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has loaded a model from `folder`; killed at the end."""
    with subprocess.Popen([sys.executable, "-c", LOADS_AND_WAITS, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name == "nt", reason="locks of this kind are POSIX")
def test_whoever_loaded_a_model_holds_it_until_it_dies(tmp_path: Path) -> None:
    repository = tmp_path / "models--o--m"
    snapshot = repository / "snapshots" / "c"
    snapshot.mkdir(parents=True)
    with loading(snapshot) as first, loading(snapshot) as second:
        assert memory.holders(repository) == [second.pid, first.pid]
        assert memory.holders(tmp_path / "models--o--other") == []
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert memory.holders(repository) == [second.pid]
    assert memory.holders(repository) == []
    assert [use.folder for use in memory.uses()] == [snapshot], "that it was used is remembered"
    with loading(snapshot) as third:
        assert memory.holders(repository) == [third.pid], "the names of the dead are gone"
