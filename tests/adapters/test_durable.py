"""A disk that is full, or a person who presses Ctrl-C, at any point: the store is as it was, or the operation is done."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onecard.adapters import durable
from onecard.adapters.store import Store
from onecard.errors import AdapterRefused, DiskFull, MachineError, OnecardError

CALLS = ("open", "mkdir", "write", "fsync", "rename", "replace", "chmod")
NEED_SPACE = ("open", "mkdir", "write", "fsync")
FORK = multiprocessing.get_context("fork")


class Faults:
    """Makes the n-th call into the operating system fail, once or, for a disk that stays full, from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException], stays: bool) -> None:
        self.error, self.stays, self.left, self.fired = error, stays, -1, False
        for name in CALLS:
            # What fsync does cannot be seen by a test that cuts no power, and it is most of the time.
            call = (lambda descriptor: None) if name == "fsync" else getattr(os, name)
            monkeypatch.setattr(os, name, self.failing(name, call))

    def failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or bool(args[1] & (os.O_CREAT | os.O_RDWR))
            if writes and self.left >= 0 and not (self.fired and not (self.stays and name in NEED_SPACE)):
                if self.left == 0:
                    self.fired = True
                    raise self.error()
                self.left -= 1
            return call(*args, **kwargs)

        return faulty

    def arm(self, number: int) -> None:
        self.left, self.fired = number, False

    def disarm(self) -> None:
        self.left = -1


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


OPERATIONS: dict[str, Callable[[Store, Path, ModuleType], Any]] = {
    "publish": lambda store, adapter, makes: store.publish("writer", "style", adapter, makes.a_manifest()),
    "first publish": lambda store, adapter, makes: store.publish(
        "reader", "new", adapter, makes.a_manifest("reader", "new")
    ),
    "promote": lambda store, adapter, makes: store.promote("writer", "style", "v0003", force=True, reason="test"),
    "rollback": lambda store, adapter, makes: store.rollback("writer", "style"),
    "remove": lambda store, adapter, makes: store.remove("writer", "style", "v0004"),
}


@pytest.fixture
def busy_store(store: Store, adapter: Path, makes: ModuleType) -> Store:
    """Five versions, of which v0001 was promoted before v0002."""
    for _ in range(5):
        store.publish("writer", "style", adapter, makes.a_manifest())
    for version in ("v0001", "v0002"):
        store.promote("writer", "style", version, force=True, reason="test")
    return store


def attempts(
    faults: Faults, operation: Callable[[Store], Any], pristine: Store
) -> Iterator[tuple[Store, Exception | KeyboardInterrupt | None]]:
    """Runs an operation on a copy of the store with a fault at the first call, the second, ..., until none is met any more."""
    points = 0
    while True:
        store = Store(pristine.root.with_name(f"copy{points}"))
        shutil.copytree(pristine.root, store.root)
        faults.arm(points)
        error: Exception | KeyboardInterrupt | None = None
        try:
            operation(store)
        except (OnecardError, KeyboardInterrupt) as caught:
            error = caught
        faults.disarm()
        if not faults.fired:
            break
        yield store, error
        points += 1
    assert points > 4


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("stays", [False, True], ids=["once", "stays full"])
def test_a_full_disk_at_any_point_changes_nothing(
    busy_store: Store, adapter: Path, makes: ModuleType, monkeypatch: pytest.MonkeyPatch, operation: str, stays: bool
) -> None:
    before = makes.tree(busy_store.root)
    faults = Faults(monkeypatch, full, stays)
    untold = 0
    for store, error in attempts(faults, lambda store: OPERATIONS[operation](store, adapter, makes), busy_store):
        if error is None:
            # Only what nobody needs may fail without a word: the name for those who wait, the last flush of a folder.
            untold += 1
            assert makes.tree(store.root) != before
        else:
            assert isinstance(error, DiskFull)
            assert "bytes are needed and" in error.problem
            assert makes.tree(store.root) == before
    assert untold <= 4


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interruption_at_any_point_leaves_all_or_nothing(
    busy_store: Store, adapter: Path, makes: ModuleType, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    before, logged = makes.tree(busy_store.root), len(busy_store.log("writer", "style"))
    shelf = ("reader", "new") if operation == "first publish" else ("writer", "style")
    faults = Faults(monkeypatch, KeyboardInterrupt, stays=False)
    done = 0
    for store, error in attempts(faults, lambda store: OPERATIONS[operation](store, adapter, makes), busy_store):
        assert isinstance(error, KeyboardInterrupt)
        if makes.tree(store.root) != before:
            done += 1
            entries = store.log(*shelf)
            assert len(entries) == (1 if operation == "first publish" else logged + 1)
            assert entries[-1].aliases == store.aliases(*shelf)
    assert done <= 2


def test_free_space_is_looked_at_first(
    store: Store, adapter: Path, makes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFull, match=r"[0-9,]+ bytes are needed and 1,000 are free"):
        store.publish("writer", "style", adapter, makes.a_manifest())
    assert not store.root.exists()


def publish_with_a_limit(root: Path, adapter: Path, manifest: Any, limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        Store(root).publish("writer", "style", adapter, manifest)
    except DiskFull:
        os._exit(17)


def test_a_real_limit_on_file_sizes_is_a_full_disk(store: Store, adapter: Path, makes: ModuleType) -> None:
    store.publish("writer", "style", adapter, makes.a_manifest())
    before = makes.tree(store.root)
    for limit in (0, 100, 1000):
        process = FORK.Process(target=publish_with_a_limit, args=(store.root, adapter, makes.a_manifest(), limit))
        process.start()
        process.join(60)
        assert process.exitcode == 17, f"limit {limit}"
        assert makes.tree(store.root) == before


ON_A_TINY_DISK = """
import importlib.util, json, sys
from pathlib import Path
from onecard.adapters import durable
from onecard.adapters.store import Store
from onecard.errors import DiskFull
spec = importlib.util.spec_from_file_location("makes", sys.argv[1])
makes = importlib.util.module_from_spec(spec); spec.loader.exec_module(makes)
disk, adapter, refused = Path(sys.argv[2]), Path(sys.argv[3]), 0
makes.write_adapter(adapter)
store = Store(disk / "store")
durable.SPARE_BYTES = 0
for name in ("adapters", "verdicts"):
    while True:
        (adapter / "README.md").write_bytes(bytes(4096 * (1 + refused % 7)))
        before = makes.tree(disk)
        try:
            if refused > 30: break
            store.publish("writer", name, adapter, makes.a_manifest("writer", name))
        except DiskFull:
            refused += 1
            assert makes.tree(disk) == before
            durable.free_bytes = lambda folder: 10**9
            # A ballast that shrinks block by block lets the next attempt fail a little later.
            ballast = disk / "ballast"
            if not ballast.exists():
                try: ballast.write_bytes(bytes(10**6))
                except OSError: pass
            else: ballast.write_bytes(bytes(max(0, ballast.stat().st_size - 4096)))
print(refused, len(store.versions("writer", "adapters")))
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 256 kB of its own, seen by one child process only."""
    disk, conftest = tmp_path / "disk", Path(__file__).with_name("conftest.py")
    disk.mkdir()
    script = tmp_path / "fill.py"
    script.write_text(ON_A_TINY_DISK)
    mount = f"mount -t tmpfs -o size=256k tiny {disk}"
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    try:
        subprocess.run([*inside, mount], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("this system lets nobody mount a small disk")
    command = f"{mount} && {sys.executable} {script} {conftest} {disk} {tmp_path / 'adapter'}"
    done = subprocess.run([*inside, command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refused, versions = map(int, done.stdout.split())
    assert refused > 30
    assert versions > 3


def test_errors_of_the_machine_are_ours(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="disk refuses"), durable.disk_errors(tmp_path):
        (tmp_path / "nothing").read_bytes()
    with pytest.raises(MachineError, match="cannot be read"):
        durable.read_bytes(tmp_path)
    assert durable.read_bytes(tmp_path / "nothing") is None
    with pytest.raises(AdapterRefused), durable.disk_errors(tmp_path):
        raise AdapterRefused("as it is")


def test_only_plain_files_are_copied(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert durable.copy_with_digest(tmp_path / "file", tmp_path / "copy") == durable.file_digest(tmp_path / "copy")
    for name in ("link", "pipe"):
        with pytest.raises((OSError, OnecardError)):
            durable.copy_with_digest(tmp_path / name, tmp_path / f"{name}-copy")
        assert not (tmp_path / f"{name}-copy").exists()


@pytest.mark.parametrize("change", ["longer", "shorter", "other bytes"])
def test_a_file_that_is_written_to_meanwhile_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"o" * 100)
    os.utime(source, ns=(10**18, 10**18))

    def meanwhile(descriptor: int, writer: object = None) -> None:
        with source.open("r+b") as other:
            if change == "longer":
                other.seek(100)
            elif change == "shorter":
                other.truncate(50)
            other.write(b"new")

    monkeypatch.setattr(durable, "flush", meanwhile)
    with pytest.raises(AdapterRefused, match="changed while it was copied"):
        durable.copy_with_digest(source, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
