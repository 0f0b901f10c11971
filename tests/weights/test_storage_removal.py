"""Removal: killed at every step it leaves the whole model or none, and what nobody holds any more is really gone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from onecard.errors import InputError, MachineError, MissingPart
from onecard.weights import storage_removal
from onecard.weights.inventory import resolve
from onecard.weights.storage import Held, Storage
from onecard.weights.storage_removal import leftover_bytes, leftovers, remove, sweep
from onecard.weights.storage_scan import scan

_spec = importlib.util.spec_from_file_location("hub_cache_maker", Path(__file__).with_name("hub_cache_maker.py"))
assert _spec and _spec.loader
maker: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(maker)

WEIGHTS_BYTES = 256 * 1024


@pytest.fixture
def cache(tmp_path: Path, own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "hub"
    place.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    return place


def found(id: str, storage: Storage | None = None) -> Held:
    return next(model for model in (storage or scan([])).models if model.id == id)


def weights_blob(repository: Path) -> Path:
    return next(blob for blob in (repository / "blobs").iterdir() if blob.stat().st_size == WEIGHTS_BYTES)


def killed_at(step: int, model: Held) -> bool:
    """Removes in a child process that dies before its `step`-th change to the disk; whether it died."""
    child = os.fork()
    if not child:
        changes = 0

        def counted(real: Any) -> Any:
            def change(*arguments: Any, **named: Any) -> Any:
                nonlocal changes
                if changes == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                changes += 1
                return real(*arguments, **named)

            return change

        for name in ("rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        remove(model)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_removed_model_is_gone_and_the_others_are_as_they_were(cache: Path) -> None:
    maker.write_model(cache, "o/goes")
    maker.write_model(cache, "o/stays")
    before = found("o/stays")
    remove(found("o/goes"))
    assert sorted(entry.name for entry in cache.iterdir()) == ["models--o--stays"]
    assert found("o/stays") == before
    with pytest.raises(MissingPart):
        resolve("o/goes", Path())


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_killed_at_any_step_no_half_model_looks_whole(cache: Path) -> None:
    step, died = 0, True
    while died:
        shutil.rmtree(cache)
        repository = maker.write_model(cache, "o/m")
        twin = maker.write_model(cache, "o/twin", b"t" * WEIGHTS_BYTES)
        stored = maker.share(cache, weights_blob(repository))
        died = killed_at(step, found("o/m"))
        ids = {model.id: model for model in scan([]).models}
        if "o/m" in ids:
            assert step == 0, "only before the first change is it still a model"
            assert ids["o/m"].whole
            assert resolve("o/m", Path()).is_dir()
        else:
            with pytest.raises(MissingPart):
                resolve("o/m", Path())
            assert bool(leftovers()) == died
            sweep(leftovers())
            assert leftovers() == []
            assert not stored.exists(), "a blob that nobody holds was left in the shared store"
            assert sorted(entry.name for entry in cache.iterdir()) == ["blobs", twin.name]
        assert ids["o/twin"].whole
        step += 1
    assert step > 5


def test_a_shared_blob_goes_with_its_last_model(cache: Path) -> None:
    one, two = maker.write_model(cache, "o/one"), maker.write_model(cache, "o/two")
    stored = maker.share(cache, weights_blob(one), weights_blob(two))
    remove(found("o/one"))
    assert stored.exists()
    assert found("o/two").whole
    remove(found("o/two"))
    assert not stored.exists()
    assert not stored.with_name(f"{stored.name}.refs").exists()


def test_a_shared_blob_that_a_dataset_holds_stays(cache: Path) -> None:
    model = maker.write_model(cache, "o/m")
    data = cache / "datasets--o--d" / "blobs" / "x"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"d")
    stored = maker.share(cache, weights_blob(model), data)
    remove(found("o/m"))
    assert stored.exists()
    assert data.stat().st_size == WEIGHTS_BYTES


def test_it_frees_what_was_said(cache: Path) -> None:
    for id, letter in (("o/a", b"a"), ("o/b", b"b")):
        maker.write_model(cache, id, letter * WEIGHTS_BYTES)
    storage = scan([])
    goes = found("o/a", storage)
    said = storage.freed_bytes([goes])
    remove(goes)
    assert storage.bytes - scan([]).bytes == said >= WEIGHTS_BYTES


def test_twice_is_once(cache: Path) -> None:
    maker.write_model(cache, "o/m")
    model = found("o/m")
    remove(model)
    remove(model)
    assert "o/m" not in [held.id for held in scan([]).models]


def test_what_onecard_cannot_fetch_again_is_refused(cache: Path) -> None:
    with pytest.raises(InputError, match="package"):
        remove(found("embedded:mini"))
    assert found("embedded:mini").whole


def test_leftovers_are_weighed_and_a_refusing_disk_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.write_model(cache, "o/m")

    def refuses(*arguments: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", str(cache))

    monkeypatch.setattr(storage_removal.shutil, "rmtree", refuses)
    with pytest.raises(MachineError, match="Permission denied"):
        remove(found("o/m"))
    monkeypatch.undo()
    left = leftovers(cache)
    assert WEIGHTS_BYTES <= leftover_bytes(left) < WEIGHTS_BYTES + 32 * 1024
    sweep(left)
    assert list(cache.iterdir()) == []


def test_the_hubs_own_library_finds_the_cache_in_order_afterwards(cache: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    one, two = maker.write_model(cache, "o/one"), maker.write_model(cache, "o/two")
    maker.share(cache, weights_blob(one), weights_blob(two))
    assert {repo.repo_id for repo in hub.scan_cache_dir(cache).repos} == {"o/one", "o/two"}
    remove(found("o/one"))
    after = hub.scan_cache_dir(cache)
    assert [repo.repo_id for repo in after.repos] == ["o/two"]
    assert after.warnings == []
