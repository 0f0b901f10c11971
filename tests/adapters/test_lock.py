"""One writer at a time: in one process, over eight, and what those who wait too long are told."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import ModuleType

import pytest

from onecard.adapters.lock import current_user, locked
from onecard.adapters.manifest import Manifest
from onecard.adapters.store import Store
from onecard.errors import StoreBusy

FORK = multiprocessing.get_context("fork")
PROCESSES, PUBLISHES = 8, 5


def publish_some(root: Path, adapter: Path, manifest: Manifest) -> None:
    store = Store(root, lock_timeout_s=60)
    for _ in range(PUBLISHES):
        store.publish("writer", "style", adapter, manifest)


def test_who_waits_too_long_is_told_who_holds_it(tmp_path: Path) -> None:
    with locked(tmp_path, "publishing", "ada", 1):
        with pytest.raises(StoreBusy, match=r"ada, process \d+ on .*, publishing"), locked(tmp_path, "x", "bob", 0.05):
            pass
        assert current_user()
    with locked(tmp_path, "promoting", "bob", 0.05):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_eight_processes_publish_forty_versions(tmp_path: Path, adapter: Path, makes: ModuleType) -> None:
    root = tmp_path / "modelstore"
    crowd = [FORK.Process(target=publish_some, args=(root, adapter, makes.a_manifest())) for _ in range(PROCESSES)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(120)
    assert [process.exitcode for process in crowd] == [0] * PROCESSES
    store = Store(root)
    expected = [f"v{number:04d}" for number in range(1, PROCESSES * PUBLISHES + 1)]
    assert [stored.version for stored in store.versions("writer", "style")] == expected
    assert [(e.action, e.version) for e in store.log("writer", "style")] == [("publish", v) for v in expected]
    assert store.aliases("writer", "style").candidate == expected[-1]
    assert not [v for v in expected if store.verify("writer", "style", v)]


def test_the_store_says_who_holds_it(store: Store, adapter: Path, makes: ModuleType) -> None:
    stored = store.publish("writer", "style", adapter, makes.a_manifest())
    before = makes.tree(store.root)
    impatient = Store(store.root, lock_timeout_s=0.05)
    with locked(stored.folder.parent, "publishing", "ada", 1), pytest.raises(StoreBusy, match="ada"):
        impatient.publish("writer", "style", adapter, makes.a_manifest())
    assert makes.tree(store.root) == before
