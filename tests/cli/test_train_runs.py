"""The folders of runs: whose they are, what can be gone on with, what stays; without training anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from onecard.cli.train_runs import CURVE, LOCK, METRICS, RECORD, RunOf, finish, run_folder, unfinished
from onecard.errors import StoreBusy

OF = RunOf("/store", "writer", "style")


def stopped(runs: Path, of: RunOf = OF, checkpoints: tuple[int, ...] = (3, 12)) -> Path:
    """A run that was interrupted after these checkpoints."""
    with pytest.raises(KeyboardInterrupt), run_folder(runs, of, resume=False) as run:
        for step in checkpoints:
            (run.folder / f"checkpoint-{step}").mkdir()
        for name in (".adapter.x.partial", ".checkpoint-x.partial", "rehearsal", "adapter"):
            (run.folder / name).mkdir()
        (run.folder / METRICS).write_text("")
        raise KeyboardInterrupt
    return run.folder


def names(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir()} - {LOCK}


def test_only_what_a_run_needs_to_go_on_stays_of_one_that_stopped(tmp_path):
    folder = stopped(tmp_path / "runs")
    assert names(folder) == {"checkpoint-3", "checkpoint-12", METRICS, RECORD}
    with run_folder(tmp_path / "runs", OF, resume=True) as run:
        assert (run.folder, run.resumed_from) == (folder, 12)


def test_a_run_without_a_checkpoint_leaves_nothing(tmp_path):
    stopped(tmp_path / "runs", checkpoints=())
    assert not (tmp_path / "runs").exists()


def test_the_newest_of_this_store_agent_and_adapter_is_taken(tmp_path):
    runs = tmp_path / "runs"
    older, newer = stopped(runs), stopped(runs)
    others = [
        RunOf("/other", "writer", "style"),
        RunOf("/store", "writer", "styles"),
        RunOf("/store", "write", "r-style"),
    ]
    for other in others:
        stopped(runs, other)
    assert [folder for folder, _ in unfinished(runs, OF)] == [newer, older]
    with run_folder(runs, OF, resume=True) as run:
        assert run.folder == newer


def test_a_run_under_way_is_refused_and_left_alone(tmp_path):
    runs = tmp_path / "runs"
    stopped(runs)
    with run_folder(runs, OF, resume=False) as under_way:
        (under_way.folder / "checkpoint-1").mkdir()
        with pytest.raises(StoreBusy, match="under way"), run_folder(runs, OF, resume=True):
            pass
        with run_folder(runs, OF, resume=False) as beside:
            assert beside.folder != under_way.folder
        assert (under_way.folder / "checkpoint-1").is_dir()


def test_a_killed_run_without_a_checkpoint_is_taken_away_and_the_one_before_it_gone_on_with(tmp_path):
    runs = tmp_path / "runs"
    older = stopped(runs)
    with run_folder(runs, OF, resume=False) as killed:
        killed.lock.release()  # as the system does for a process that is gone
        with run_folder(runs, OF, resume=True) as run:
            assert run.folder == older
        assert not killed.folder.exists()


def test_a_finished_run_keeps_its_metrics_under_the_version_and_is_not_gone_on_with(tmp_path):
    runs = tmp_path / "runs"
    with run_folder(runs, OF, resume=False) as run:
        (run.folder / "checkpoint-7").mkdir()
        (run.folder / "adapter").mkdir()
        (run.folder / METRICS).write_text("kept")
        finish(run, OF, "v0003")
    assert {place.name for place in runs.iterdir()} == {"writer-style-v0003"}
    assert {place.name for place in (runs / "writer-style-v0003").iterdir()} == {METRICS}
    with run_folder(runs, OF, resume=True) as again:
        assert again.resumed_from is None
        assert finish(again, OF, "v0003").name == "writer-style-v0003-2", "of a store that was begun anew"
    assert (runs / "writer-style-v0003" / METRICS).read_text() == "kept"


def test_what_a_kill_left_of_a_finished_run_is_swept(tmp_path):
    runs = tmp_path / "runs"
    folder = stopped(runs).rename(runs / "writer-style-v0001")  # killed after the name and before the tidying
    (folder / CURVE).write_bytes(b"png")
    lost = runs / ".run-abc.partial"
    lost.mkdir()
    os.utime(lost, (0, 0))
    with run_folder(runs, OF, resume=True) as run:
        assert run.resumed_from is None
    assert {place.name for place in folder.iterdir()} == {METRICS, CURVE} and not lost.exists()


def test_foreign_folders_are_left_alone(tmp_path):
    runs = tmp_path / "runs"
    for name, record in (("a", "{"), ("b", "[]"), ("c", json.dumps({"agent": "writer"})), ("d", "")):
        (runs / name).mkdir(parents=True)
        (runs / name / RECORD).write_text(record)
    (runs / "mine").write_text("")
    with run_folder(runs, OF, resume=True) as run:
        assert run.resumed_from is None
    assert {"a", "b", "c", "d", "mine"} <= {place.name for place in runs.iterdir()}


def test_a_folder_is_locked_as_soon_as_it_has_its_name(tmp_path):
    with run_folder(tmp_path / "runs", OF, resume=False) as run:
        other = FileLock(str(run.folder / LOCK), timeout=0)
        with pytest.raises(TimeoutError):
            other.acquire()
