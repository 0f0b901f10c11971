"""The store against a model of itself: no version is lost, aliases point at what exists, the log agrees. And torn files."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from onecard.adapters.manifest import Verdict
from onecard.adapters.store import Store
from onecard.errors import AdapterRefused, GateFailed, InputError, OnecardError, Refusal, UnknownName


def _conftest() -> ModuleType:
    """The neighbour's functions: a state machine cannot ask for fixtures."""
    spec = spec_from_file_location("adapter_makes", Path(__file__).with_name("conftest.py"))
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


makes = _conftest()


class StoreMachine(RuleBasedStateMachine):
    """Publishes, promotes, rolls back and removes, beside a dictionary of what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.real_fsync, os.fsync = os.fsync, lambda descriptor: None
        self.store = self.make_store()
        self.digests: dict[str, str] = {}
        self.passed: set[str] = set()
        self.candidate: str | None = None
        self.productions: list[str] = []
        self.log: list[tuple[str, str]] = []
        self.published = 0

    def make_store(self) -> Store:
        return Store(self.folder / "store")

    @initialize()
    def three_adapters(self) -> None:
        self.adapters = [makes.write_adapter(self.folder / f"a{n}", seed=0.5 + n) for n in range(3)]

    def version(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.digests)))

    def aliased(self, version: str) -> bool:
        return version == self.candidate or version in self.productions[-2:]

    @rule(which=st.integers(0, 2))
    def publish(self, which: int) -> None:
        stored = self.store.publish("writer", "style", self.adapters[which], makes.a_manifest(), by="me")
        self.published += 1
        assert stored.version == f"v{self.published:04d}"
        self.digests[stored.version] = stored.digest
        self.candidate = stored.version
        self.log.append(("publish", stored.version))

    @precondition(lambda self: self.digests)
    @rule(data=st.data(), passed=st.booleans())
    def judge(self, data: st.DataObject, passed: bool) -> None:
        version = self.version(data)
        self.store.record_verdict(
            "writer", "style", version, Verdict(passed=passed, at="t", suite_digest="s", summary={})
        )
        (self.passed.add if passed else self.passed.discard)(self.digests[version])

    @precondition(lambda self: self.digests)
    @rule(data=st.data(), force=st.booleans())
    def promote(self, data: st.DataObject, force: bool) -> None:
        version = self.version(data)
        arguments: dict[str, Any] = {"force": True, "reason": "test"} if force else {}
        if not force and self.digests[version] not in self.passed:
            with pytest.raises(GateFailed):
                self.store.promote("writer", "style", version, by="me")
            return
        self.store.promote("writer", "style", version, by="me", **arguments)
        if self.productions[-1:] != [version]:
            self.productions.append(version)
            self.log.append(("promote", version))

    @precondition(lambda self: self.digests)
    @rule()
    def rollback(self) -> None:
        if len(self.productions) < 2:
            with pytest.raises(Refusal):
                self.store.rollback("writer", "style")
            return
        self.productions.pop()
        assert self.store.rollback("writer", "style", by="me").version == self.productions[-1]
        self.log.append(("rollback", self.productions[-1]))

    @precondition(lambda self: self.digests)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        version = self.version(data)
        if self.aliased(version):
            with pytest.raises(Refusal):
                self.store.remove("writer", "style", version)
            return
        self.store.remove("writer", "style", version, by="me")
        del self.digests[version]
        self.productions = [v for v in self.productions if v != version]
        self.log.append(("remove", version))
        with pytest.raises(UnknownName):
            self.store.resolve("writer", f"style@{version}")

    @precondition(lambda self: self.published)
    @invariant()
    def nothing_is_lost(self) -> None:
        there = self.store.versions("writer", "style")
        assert {stored.version: stored.digest for stored in there} == self.digests

    @precondition(lambda self: self.published)
    @invariant()
    def aliases_and_log_agree(self) -> None:
        aliases = self.store.aliases("writer", "style")
        assert aliases.candidate == self.candidate
        assert aliases.production == (self.productions[-1] if self.productions else None)
        assert aliases.previous == (self.productions[-2] if len(self.productions) > 1 else None)
        entries = self.store.log("writer", "style")
        assert [(entry.action, entry.version) for entry in entries] == self.log
        assert entries[-1].aliases == aliases
        for alias in ("candidate", "production", "previous"):
            if version := aliases.get(alias):
                assert self.store.resolve("writer", f"style@{alias}").version == version

    def teardown(self) -> None:
        os.fsync = self.real_fsync
        for version in self.digests:
            assert self.store.verify("writer", "style", version) == []
        shutil.rmtree(self.folder)


StoreMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreMachine = StoreMachine.TestCase


class MemoryStoreMachine(StoreMachine):
    """The same in an object store, where log, aliases and versions are one object."""

    def make_store(self) -> Store:
        return Store(f"memory://machine{self.folder}", cache=self.folder / "cache")


MemoryStoreMachine.TestCase.settings = StoreMachine.TestCase.settings
TestMemoryStoreMachine = MemoryStoreMachine.TestCase


@pytest.fixture
def shelf(store: Store, adapter: Path) -> Path:
    """Two versions, the first in production."""
    stored = store.publish("writer", "style", adapter, makes.a_manifest())
    store.promote("writer", "style", "v0001", force=True, reason="test")
    store.publish("writer", "style", adapter, makes.a_manifest())
    return stored.folder.parent


def everything(store: Store) -> None:
    """Every way of reading and changing; only our own errors may come out."""
    for act in (
        lambda: store.resolve("writer", "style@production"),
        lambda: store.resolve("writer", "style@v0001"),
        lambda: store.versions("writer", "style"),
        lambda: store.log("writer", "style"),
        lambda: store.verify("writer", "style", "v0001"),
        lambda: store.verdict(store.resolve("writer", "style@v0001")),
        lambda: store.promote("writer", "style", "v0002", force=True, reason="test"),
        lambda: store.rollback("writer", "style"),
        lambda: store.remove("writer", "style", "v0002"),
        store.list,
    ):
        try:
            act()  # type: ignore[no-untyped-call]
        except OnecardError as error:
            assert error.problem and (error.where or error.next_step)


TORN = [b"", b"{", b"null", b"[]", b'{"candidate": "../../x"}', b'{"candidate": "v0001\\n"}', b"\xff\xfe", b'{"x": 1}']


@pytest.mark.parametrize("content", TORN)
def test_torn_aliases_say_how_to_mend_them(store: Store, shelf: Path, content: bytes) -> None:
    before = (shelf / "aliases.json").read_bytes()
    (shelf / "aliases.json").write_bytes(content)
    with pytest.raises(InputError, match=r"aliases\.json: corrupt aliases .*Next: .*log\.jsonl"):
        store.resolve("writer", "style@production")
    assert store.resolve("writer", "style@v0001").version == "v0001"
    assert store.list()[0].problem
    everything(store)
    assert (shelf / "aliases.json").read_bytes() == content
    # What the message says to do works.
    (shelf / "aliases.json").write_text(store.log("writer", "style")[-1].aliases.model_dump_json())
    assert store.aliases("writer", "style") == type(store.aliases("writer", "style")).model_validate_json(before)


@pytest.mark.parametrize("content", [*TORN, None])
def test_a_torn_manifest_is_named(store: Store, shelf: Path, content: bytes | None) -> None:
    file = shelf / "v0001" / "manifest.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AdapterRefused, match=r"manifest\.json: (corrupt|no) manifest.*Next"):
        store.resolve("writer", "style@v0001")
    assert store.verify("writer", "style", "v0001")
    everything(store)


@pytest.mark.parametrize("name", ["aliases.json", "log.jsonl", "v0001/manifest.json", "verdicts"])
def test_a_folder_in_the_place_of_a_file_is_an_error_of_ours(store: Store, shelf: Path, name: str) -> None:
    if (shelf / name).exists():
        (shelf / name).unlink()
        (shelf / name).mkdir()
    else:
        (shelf / name).write_text("a file in the place of a folder")
    everything(store)


@pytest.mark.parametrize(
    ("key", "value"), [("agent", "other"), ("name", "other"), ("version", "v0009"), ("digest", "0" * 64)]
)
def test_a_manifest_from_another_place_is_refused(store: Store, shelf: Path, key: str, value: str) -> None:
    stored = store.resolve("writer", "style@v0001")
    file = stored.folder / "manifest.json"
    file.chmod(0o644)
    file.write_text(stored.manifest.model_copy(update={key: value}).model_dump_json())
    with pytest.raises(AdapterRefused, match=f"the manifest's {key}"):
        store.resolve("writer", "style@v0001")


def test_a_manifest_that_was_edited_is_found_by_the_log(store: Store, shelf: Path) -> None:
    stored = store.resolve("writer", "style@v0001")
    base = stored.manifest.base.model_copy(update={"fingerprint": "0" * 64})
    file = stored.folder / "manifest.json"
    file.chmod(0o644)
    file.write_text(stored.manifest.model_copy(update={"base": base}).model_dump_json(indent=2) + "\n")
    assert store.resolve("writer", "style@v0001").manifest.base == base
    assert "not the file that was published" in store.verify("writer", "style", "v0001")[0]
    store.promote("writer", "style", "v0002", force=True, reason="test")
    with pytest.raises(AdapterRefused, match="not what was published"):
        store.rollback("writer", "style")


def test_links_and_strange_names_are_no_versions(store: Store, shelf: Path, tmp_path: Path) -> None:
    (shelf / "v0003").symlink_to(shelf / "v0001")
    (shelf / "v00004").mkdir()
    (shelf / "v0005").touch()
    assert [stored.version for stored in store.versions("writer", "style")] == ["v0001", "v0002"]


def test_what_a_killed_process_did_is_written_down_by_the_next(store: Store, shelf: Path) -> None:
    """Killed between the rename of the version and the log line, and between the log line and the aliases."""
    log = shelf / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    store.promote("writer", "style", "v0002", force=True, reason="test")
    assert [(e.action, e.version) for e in store.log("writer", "style")][-2:] == [
        ("appeared", "v0002"),
        ("promote", "v0002"),
    ]
    (shelf / "aliases.json").write_text('{"candidate": "v0001", "production": "v0002"}')
    store.promote("writer", "style", "v0001", force=True, reason="test")
    assert [e.action for e in store.log("writer", "style")][-2:] == ["moved", "promote"]
    shutil.rmtree(shelf / "v0001")
    store.record_verdict("writer", "style", "v0002", Verdict(passed=True, at="t", suite_digest="s", summary={}))
    assert [(e.action, e.version) for e in store.log("writer", "style")][-1] == ("vanished", "v0001")
    with pytest.raises(UnknownName, match="points at v0001, which is gone"):
        store.resolve("writer", "style@production")


def test_the_number_of_a_version_that_vanished_is_not_given_again(store: Store, shelf: Path, adapter: Path) -> None:
    shutil.rmtree(shelf / "v0002")
    assert store.publish("writer", "style", adapter, makes.a_manifest()).version == "v0003"
