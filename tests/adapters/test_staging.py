"""Publishers that are killed: what they leave is invisible, and the next one sweeps it away."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest

from onecard.adapters.manifest import Manifest
from onecard.adapters.staging import PREFIX, staging, sweep
from onecard.adapters.store import Store

FORK = multiprocessing.get_context("fork")
KILLS = 15


def change_for_ever(root: Path, adapter: Path, manifest: Manifest, started: int) -> None:
    """Publishes, promotes, rolls back and removes until it is killed."""
    store = Store(root, lock_timeout_s=20)
    os.write(started, b"!")
    while True:
        version = store.publish("writer", "style", adapter, manifest).version
        store.promote("writer", "style", version, force=True, reason="test")
        if store.aliases("writer", "style").previous:
            store.rollback("writer", "style")
        aliases = store.aliases("writer", "style")
        spare = [s.version for s in store.versions("writer", "style") if not aliases.of(s.version)]
        if len(spare) > 4:
            store.remove("writer", "style", spare[0])


def test_a_killed_publisher_leaves_no_half_version(
    tmp_path: Path, store: Store, adapter: Path, makes: ModuleType
) -> None:
    weights = adapter / "adapter_model.safetensors"
    first = store.publish("writer", "style", adapter, makes.a_manifest())
    chance = random.Random(7)
    for _ in range(KILLS):
        reading, writing = os.pipe()
        victim = FORK.Process(target=change_for_ever, args=(store.root, adapter, makes.a_manifest(), writing))
        victim.start()
        os.read(reading, 1)
        time.sleep(chance.uniform(0, 0.06))
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        os.close(reading)
        os.close(writing)

        aliases = store.aliases("writer", "style")
        there = [stored.version for stored in store.versions("writer", "style")]
        assert {aliases.candidate, aliases.production, aliases.previous} - {None} <= set(there)
        assert not [v for v in there if store.verify("writer", "style", v)]
        assert isinstance(store.log("writer", "style"), list)

    left = store.publish("writer", "style", adapter, makes.a_manifest())
    shelf = left.folder.parent
    assert not [file.name for file in shelf.iterdir() if file.name.startswith(PREFIX)]
    assert left.folder.joinpath(weights.name).read_bytes() == weights.read_bytes()
    assert left.version > first.version
    entries = store.log("writer", "style")
    assert entries[-1].aliases == store.aliases("writer", "style")
    published = {e.version for e in entries if e.action in ("publish", "appeared")}
    gone = {e.version for e in entries if e.action in ("remove", "vanished")}
    assert published - gone == {stored.version for stored in store.versions("writer", "style")}


def test_the_living_are_not_swept_away(tmp_path: Path) -> None:
    with staging(tmp_path / "shelf") as place:
        (place / "file").write_text("mine")
        sweep(tmp_path / "shelf")
        assert (place / "file").read_text() == "mine"
    assert list((tmp_path / "shelf").iterdir()) == []


def test_the_dead_are_swept_away(tmp_path: Path) -> None:
    dead = tmp_path / f"{PREFIX}1-abc"
    dead.mkdir()
    (dead / "file").write_text("half")
    (tmp_path / f"{PREFIX}1-abc.lock").touch()
    (tmp_path / f"{PREFIX}2-without-a-lock").mkdir()
    (tmp_path / "v0001").mkdir()
    sweep(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["v0001"]


def test_folders_made_for_nothing_disappear(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "agents" / "a" / "adapters" / "b"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "agents").mkdir()
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "agents" / "a"):
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["agents"]
