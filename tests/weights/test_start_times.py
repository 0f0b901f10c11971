"""The record of the last cold start: what is kept, what is not, and that it never gets in the way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onecard.weights.start_times import READY, Start, StartClock, keep_start, kept_file, read_start


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_is_kept_is_read_again_and_the_latest_counts() -> None:
    assert read_start() is None
    keep_start(Start("2026-11-21T00:00:00+00:00", "a", (("open the model", 1.5),)))
    later = Start("2026-11-22T00:00:00+00:00", "b", (("import torch", 2.0), ("open the model", 0.5)), READY)
    keep_start(later)
    assert read_start() == later
    assert [file.name for file in kept_file().parent.iterdir()] == [kept_file().name]


def test_a_start_that_imports_nothing_is_not_a_cold_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", object())
    warm = StartClock()
    with warm.part("open the model"):
        pass
    warm.done("org/model")
    assert read_start() is None


def test_parts_of_several_models_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    clock = StartClock()
    for _ in range(2):
        for name in ("hash the weights", "open the model"):
            with clock.part(name):
                pass
    clock.done("org/model")
    kept = read_start()
    assert kept is not None
    assert [name for name, _ in kept.parts] == ["hash the weights", "open the model"]
    assert (kept.model, kept.until) == ("org/model", "being served")


def test_a_cache_that_cannot_be_written_stops_no_start(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    keep_start(Start("2026", "a", ()))
    assert read_start() is None
