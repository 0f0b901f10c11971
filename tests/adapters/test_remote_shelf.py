"""A shelf in an object store when things go wrong: requests that fail or come late, dead and slow publishers, spoilt objects."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onecard.adapters import remote_shelf
from onecard.adapters.fsspec_objects import FsspecObjects
from onecard.adapters.manifest import Verdict
from onecard.adapters.objects import StoredObject
from onecard.adapters.store import Store
from onecard.errors import AdapterRefused, InputError, MachineError, OnecardError, StoreBusy

SHELF = "agents/writer/adapters/style"
CALLS = ("read", "create", "put", "upload", "delete", "names", "below")


@pytest.fixture
def store(memory_url: str, tmp_path: Path) -> Store:
    return Store(memory_url, lock_timeout_s=20, cache=tmp_path / "cache")


@pytest.fixture
def objects(memory_url: str) -> FsspecObjects:
    return FsspecObjects(memory_url)


@pytest.fixture
def publish(store: Store, adapter: Path, makes: ModuleType) -> Callable[[], Any]:
    return lambda: store.publish("writer", "style", adapter, makes.a_manifest(), by="ada")


def everything(objects: FsspecObjects) -> dict[str, bytes | None]:
    return {found.key: objects.read(found.key) for found in objects.below("")}


class Faults:
    """Fails one request of those that the store sends: before it has an effect, or after, when only the answer is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.after, self.stays, self.fired = -1, False, False, False
        for name in CALLS:
            monkeypatch.setattr(FsspecObjects, name, self.failing(getattr(FsspecObjects, name)))

    def arm(self, point: int, after: bool, stays: bool) -> None:
        self.left, self.after, self.stays, self.fired = point, after, stays, False

    def failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == -1 or (self.fired and self.stays):
                self.fired = True
                if self.after:
                    call(*arguments)
                raise MachineError("no answer in time")
            return call(*arguments)

        return wrapped


@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("after", [False, True], ids=["no effect", "answer lost"])
def test_a_request_that_fails_at_any_point_of_a_publish_leaves_all_or_nothing(
    memory_url: str,
    adapter: Path,
    tmp_path: Path,
    makes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    after: bool,
    stays: bool,
) -> None:
    faults, untouched, point = Faults(monkeypatch), 0, 0
    while True:
        store = Store(f"{memory_url}/{point}", lock_timeout_s=5, cache=tmp_path / "cache")
        objects = FsspecObjects(f"{memory_url}/{point}")
        store.publish("writer", "style", adapter, makes.a_manifest())
        before, told = everything(objects), store.versions("writer", "style")
        faults.arm(point, after, stays)
        error = None
        try:
            stored = store.publish("writer", "style", adapter, makes.a_manifest())
        except OnecardError as caught:
            error = caught
        fired = faults.fired
        faults.arm(-1, False, False)
        versions = store.versions("writer", "style")
        assert all(store.verify("writer", "style", one.version) == [] for one in versions)
        assert store.log("writer", "style")[-1].aliases == store.aliases("writer", "style")
        if error is None:
            assert versions == [*told, stored]
        elif versions == told and not stays:
            left = set(everything(objects)) - set(before)
            assert not [key for key in left if "/log/" not in key], "a failed publish left objects behind"
            untouched += not left
        if not fired:
            break
        point += 1
    assert point > 10
    assert stays or untouched > 5


def test_an_offer_that_arrives_after_its_publisher_gave_up_comes_too_late(
    store: Store, objects: FsspecObjects, publish: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    late: list[tuple[str, bytes]] = []
    real = FsspecObjects.create

    def create(self: FsspecObjects, key: str, content: bytes) -> bool:
        if "/log/" in key and not late:
            late.append((key, content))
            raise MachineError("no answer in time")
        return real(self, key, content)

    monkeypatch.setattr(FsspecObjects, "create", create)
    with pytest.raises(MachineError):
        publish()
    assert not objects.create(*late[0]), "the late offer was taken, and its files are gone"
    assert [stored.version for stored in store.versions("writer", "style")] == ["v0001"]
    assert store.log("writer", "style")[-1].action == "vanished"
    assert publish().version == "v0003"


def test_what_a_dead_publisher_left_is_swept_by_the_clock_of_the_store(
    store: Store, objects: FsspecObjects, publish: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    for version, name in (("v0002", ".claim"), ("v0002", "adapter_model.safetensors"), ("v0003", ".claim")):
        objects.put(f"{SHELF}/{version}/{name}", b"x")
    day = remote_shelf.ABANDONED_AFTER_S
    real = FsspecObjects.below

    def below(self: FsspecObjects, folder: str) -> list[StoredObject]:
        """The clock of the store is ten years ahead of ours; v0002 is older than a day on it, v0003 is not."""
        shift = 10 * 365 * day - (day + 60 if "v0002" in folder else day - 60 if "v0003" in folder else 0)
        return [StoredObject(o.key, o.size_bytes, (o.modified_s or 0) + shift) for o in real(self, folder)]

    monkeypatch.setattr(FsspecObjects, "below", below)
    assert publish().version == "v0004"
    assert set(objects.names(SHELF)) == {"log", "v0001", "v0003", "v0004"}
    assert [(entry.action, entry.version) for entry in store.log("writer", "style")] == [
        ("publish", "v0001"),
        ("vanished", "v0002"),
        ("publish", "v0004"),
    ]
    objects.delete([f"{SHELF}/v0003/.claim"])
    assert publish().version == "v0005"


def test_a_publisher_that_was_taken_for_dead_is_told_and_leaves_nothing(
    store: Store, objects: FsspecObjects, publish: Callable[[], Any], memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    real = FsspecObjects.upload

    def upload(self: FsspecObjects, file: Path, key: str) -> None:
        real(self, file, key)
        if file.name == "manifest.json" and "v0002" in key:
            monkeypatch.undo()
            monkeypatch.setattr(remote_shelf, "ABANDONED_AFTER_S", -1.0)
            publish()  # sweeps the first, who is still at work

    monkeypatch.setattr(FsspecObjects, "upload", upload)
    with pytest.raises(StoreBusy, match="taken for dead"):
        publish()
    assert [stored.version for stored in store.versions("writer", "style")] == ["v0001", "v0003"]
    assert set(objects.names(SHELF)) == {"log", "v0001", "v0003"}


def test_publishers_at_the_same_time_get_a_number_each(
    store: Store, adapter: Path, memory_url: str, tmp_path: Path, makes: ModuleType
) -> None:
    got: list[str] = []

    def work(who: int) -> None:
        mine = Store(memory_url, lock_timeout_s=20, cache=tmp_path / f"cache{who}")
        for _ in range(4):
            got.append(mine.publish("writer", "style", adapter, makes.a_manifest()).version)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [f"v{n:04d}" for n in range(1, 17)]
    assert [stored.version for stored in store.versions("writer", "style")] == sorted(got)
    assert len(store.log("writer", "style")) == 16


def test_who_never_gets_a_turn_is_told_so(
    memory_url: str, publish: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    monkeypatch.setattr(FsspecObjects, "create", lambda *arguments: False)
    impatient = Store(memory_url, lock_timeout_s=0.05, cache=tmp_path / "cache")
    with pytest.raises(StoreBusy, match=r"others changed writer/style \d+ times while promoting"):
        impatient.promote("writer", "style", "v0001", force=True, reason="test")


def spoilt(objects: FsspecObjects, name: str) -> None:
    key = f"{SHELF}/v0001/{name}"
    objects.put(key, (objects.read(key) or b"")[:-2] + b" \n")


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda o: spoilt(o, "README.md"), r"README\.md: sha256 is"),
        (lambda o: spoilt(o, "manifest.json"), "manifest"),
        (lambda o: o.delete([f"{SHELF}/v0001/README.md"]), r"README\.md: missing"),
        (lambda o: o.put(f"{SHELF}/v0001/extra.bin", b"x"), r"extra\.bin: not in the manifest"),
        (lambda o: o.delete([f"{SHELF}/v0001/manifest.json"]), "no manifest"),
    ],
)
def test_what_was_changed_in_the_bucket_is_found_and_never_promoted(
    store: Store,
    objects: FsspecObjects,
    publish: Callable[[], Any],
    spoil: Callable[[FsspecObjects], None],
    found: str,
) -> None:
    publish()
    spoil(objects)
    differences = store.verify("writer", "style", "v0001")
    assert differences
    assert any(re.search(found, difference) for difference in differences)
    with pytest.raises(AdapterRefused):
        store.promote("writer", "style", "v0001", force=True, reason="hurry")
    assert store.aliases("writer", "style").production is None


def test_a_removal_that_dies_halfway_is_finished_by_the_next_publish(
    store: Store, objects: FsspecObjects, publish: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    publish()

    def fails(*arguments: object) -> None:
        raise MachineError("no answer in time")

    with monkeypatch.context() as patched:
        patched.setattr(FsspecObjects, "delete", fails)
        store.remove("writer", "style", "v0001")
    assert [stored.version for stored in store.versions("writer", "style")] == ["v0002"]
    assert "v0001" in objects.names(SHELF)
    assert publish().version == "v0003"
    assert "v0001" not in objects.names(SHELF)


def test_a_torn_verdict_is_named(store: Store, objects: FsspecObjects, publish: Callable[[], Any]) -> None:
    stored = publish()
    verdict = Verdict(passed=True, at="t", suite_digest="s", summary={})
    store.record_verdict("writer", "style", "v0001", verdict)
    objects.put(f"{SHELF}/verdicts/{stored.digest}.json", b"{")
    with pytest.raises(InputError, match="corrupt verdict"):
        store.promote("writer", "style", "v0001")


def test_strange_names_in_the_bucket_are_no_adapters(
    store: Store, objects: FsspecObjects, publish: Callable[[], Any]
) -> None:
    publish()
    for key in ("agents/..%2f/adapters/x/log/0000000001.json", "agents/writer/notes.txt", f"{SHELF}/v1/x", "other"):
        objects.put(key, b"x")
    assert [(listing.agent, listing.name) for listing in store.list()] == [("writer", "style")]
    assert [stored.version for stored in store.versions("writer", "style")] == ["v0001"]
