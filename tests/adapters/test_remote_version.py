"""Local copies of remote versions: fetched on first use, once, checked, and nothing but what was published."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from onecard.adapters import durable
from onecard.adapters.fsspec_objects import FsspecObjects
from onecard.adapters.objects import StoredObject
from onecard.adapters.store import Store
from onecard.errors import AdapterRefused, DiskFull, UnknownName

WEIGHTS = "agents/writer/adapters/style/v0001/adapter_model.safetensors"
MANIFEST = "agents/writer/adapters/style/v0001/manifest.json"


@pytest.fixture
def url(memory_url: str, adapter: Path, tmp_path: Path, makes: ModuleType) -> str:
    """A store with one version, published from a machine with another cache."""
    Store(memory_url, cache=tmp_path / "elsewhere").publish("writer", "style", adapter, makes.a_manifest())
    return memory_url


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were downloaded so far."""
    seen: list[str] = []
    real = FsspecObjects.chunks

    def chunks(self: FsspecObjects, found: StoredObject) -> Iterator[bytes]:
        seen.append(found.key)
        return real(self, found)

    monkeypatch.setattr(FsspecObjects, "chunks", chunks)
    return seen


def test_only_the_folder_downloads_and_only_once(url: str, tmp_path: Path, downloads: list[str]) -> None:
    cache = tmp_path / "cache"
    store = Store(url, cache=cache)
    [stored] = store.versions("writer", "style")
    assert store.resolve("writer", "style@candidate") == stored
    assert (stored.address, stored.where) == (
        "writer/style@v0001",
        f"{url}/agents/writer/adapters/style/v0001",
    )
    assert (downloads, cache.exists()) == ([], False)
    folder = stored.folder
    assert len(downloads) == 4
    assert all(file.stat().st_mode & 0o222 == 0 for file in folder.iterdir())
    for again in (
        stored,
        store.resolve("writer", "style@v0001"),
        Store(url, cache=cache).versions("writer", "style")[0],
    ):
        assert again.folder == folder
    assert len(downloads) == 4
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_what_this_machine_published_is_here_already(
    memory_url: str, adapter: Path, tmp_path: Path, makes: ModuleType, downloads: list[str]
) -> None:
    stored = Store(memory_url, cache=tmp_path / "cache").publish("writer", "style", adapter, makes.a_manifest())
    assert stored.folder.parent == tmp_path / "cache"
    assert downloads == []


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "manifest.json"])
def test_a_copy_that_was_changed_is_fetched_again(url: str, tmp_path: Path, downloads: list[str], name: str) -> None:
    store = Store(url, cache=tmp_path / "cache")
    file = store.resolve("writer", "style@v0001").folder / name
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[:-1] + b"?")
    assert (store.resolve("writer", "style@v0001").folder / name).read_bytes() == whole
    assert len(downloads) == 8


def test_bytes_that_were_not_published_never_reach_the_cache(url: str, tmp_path: Path) -> None:
    objects = FsspecObjects(url)
    objects.put(WEIGHTS, (objects.read(WEIGHTS) or b"")[:-1] + b"?")
    stored = Store(url, cache=tmp_path / "cache").resolve("writer", "style@v0001")
    with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors is not what was published"):
        _ = stored.folder
    assert not (tmp_path / "cache").exists()


def test_a_version_that_is_removed_meanwhile_is_said_to_be_gone(url: str, tmp_path: Path) -> None:
    stored = Store(url, cache=tmp_path / "cache").resolve("writer", "style@v0001")
    FsspecObjects(url).delete([WEIGHTS])
    with pytest.raises(UnknownName, match="is gone"):
        _ = stored.folder
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["../../../out", "a/b", ".hidden", "..", "a\\b"])
def test_no_name_in_a_manifest_leaves_the_cache(url: str, tmp_path: Path, name: str) -> None:
    objects = FsspecObjects(url)
    manifest = json.loads(objects.read(MANIFEST) or b"")
    manifest["files"] = {name: "0" * 64}
    from onecard.adapters.verification import digest_of

    manifest["digest"] = digest_of(manifest["files"])
    objects.put(MANIFEST, json.dumps(manifest).encode())
    before = {path for path in tmp_path.rglob("*") if path.name != ".lock"}
    stored = Store(url, cache=tmp_path / "cache").resolve("writer", "style@v0001")
    with pytest.raises(AdapterRefused, match="is not the name of a file"):
        _ = stored.folder
    assert {path for path in tmp_path.rglob("*") if path.name != ".lock"} == before


def test_no_room_for_a_copy_is_said_with_the_bytes(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "free_bytes", lambda folder: 1000)
    stored = Store(url, cache=tmp_path / "cache").resolve("writer", "style@v0001")
    with pytest.raises(DiskFull, match="1,000 are free"):
        _ = stored.folder


def test_a_crowd_fills_the_cache_at_once(url: str, tmp_path: Path) -> None:
    folders, start = [], threading.Barrier(6)

    def work() -> None:
        stored = Store(url, cache=tmp_path / "cache").resolve("writer", "style@v0001")
        start.wait()
        folders.append(stored.folder)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 6
    assert len(set(folders)) == 1
    assert list((tmp_path / "cache").iterdir()) == [folders[0]]
