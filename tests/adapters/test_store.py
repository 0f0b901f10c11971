"""The store as its users see it: publish, resolve, promote, roll back, verify, remove, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from onecard.adapters import store as store_module
from onecard.adapters.manifest import Verdict
from onecard.adapters.store import Store
from onecard.errors import AdapterRefused, GateFailed, InputError, Refusal, StoreBusy, UnknownName

PASSED = Verdict(passed=True, at="2026-11-21T10:00:00Z", suite_digest="s", summary={"terse": 0.99})


def test_a_published_version_is_whole_and_read_only(store: Store, adapter: Path, makes: ModuleType) -> None:
    stored = store.publish("writer", "style", adapter, makes.a_manifest(), by="ada")
    assert stored.address == "writer/style@v0001"
    assert stored.folder == store.root / "agents" / "writer" / "adapters" / "style" / "v0001"
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        assert (stored.folder / name).read_bytes() == (adapter / name).read_bytes()
        assert (stored.folder / name).stat().st_mode & 0o222 == 0
    written = json.loads((stored.folder / "manifest.json").read_text())
    assert written["version"] == "v0001"
    assert written["digest"] == stored.digest
    assert written["created_at"]
    assert sorted(written["files"]) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert store.resolve("writer", "style@candidate") == stored
    assert store.verify("writer", "style", "v0001") == []
    [entry] = store.log("writer", "style")
    assert (entry.by, entry.action, entry.version, entry.digest) == ("ada", "publish", "v0001", stored.digest)
    assert sorted(f.name for f in stored.folder.parent.iterdir()) == [".lock", "aliases.json", "log.jsonl", "v0001"]


def test_adapters_do_not_touch_each_other(store: Store, adapter: Path, tmp_path: Path, makes: ModuleType) -> None:
    first = store.publish("writer", "style", adapter, makes.a_manifest())
    before = makes.tree(first.folder)
    other = makes.write_adapter(tmp_path / "other", seed=9)
    second = store.publish("reader", "style", other, makes.a_manifest("reader"))
    third = store.publish("writer", "style", other, makes.a_manifest())
    assert makes.tree(first.folder) == before
    assert first.digest != second.digest == third.digest
    assert [(item.agent, item.name, item.versions) for item in store.list()] == [
        ("reader", "style", ("v0001",)),
        ("writer", "style", ("v0001", "v0002")),
    ]


def test_the_way_to_production_and_back(store: Store, adapter: Path, makes: ModuleType) -> None:
    for _ in range(3):
        store.publish("writer", "style", adapter, makes.a_manifest())
    with pytest.raises(GateFailed, match="not been evaluated"):
        store.promote("writer", "style")
    assert store.promote("writer", "style", verdict=PASSED).version == "v0003"
    before = store.aliases("writer", "style")
    store.promote("writer", "style", "v0002")
    store.promote("writer", "style", "v0001", force=True, reason="a question of taste", by="ada")
    assert store.log("writer", "style")[-1].model_dump(include={"by", "reason", "forced"}) == {
        "by": "ada",
        "reason": "a question of taste",
        "forced": True,
    }
    assert store.resolve("writer", "style@production").version == "v0001"
    assert store.resolve("writer", "style@previous").version == "v0002"
    assert store.rollback("writer", "style").version == "v0002"
    assert store.rollback("writer", "style").version == "v0003"
    assert store.aliases("writer", "style") == before
    with pytest.raises(Refusal, match="no earlier production"):
        store.rollback("writer", "style")


def test_promoting_what_is_in_production_changes_nothing(store: Store, adapter: Path, makes: ModuleType) -> None:
    store.publish("writer", "style", adapter, makes.a_manifest())
    store.promote("writer", "style", verdict=PASSED)
    before = makes.tree(store.root)
    store.promote("writer", "style")
    assert makes.tree(store.root) == before


def test_a_verdict_counts_for_its_digest_only(store: Store, adapter: Path, tmp_path: Path, makes: ModuleType) -> None:
    first = store.publish("writer", "style", adapter, makes.a_manifest())
    second = store.publish("writer", "style", makes.write_adapter(tmp_path / "b", 3), makes.a_manifest())
    verdict = store.record_verdict("writer", "style", "v0001", PASSED)
    assert verdict.digest == first.digest
    assert store.verdict(first) == verdict
    assert store.verdict(second) is None
    with pytest.raises(GateFailed):
        store.promote("writer", "style", "v0002")
    with pytest.raises(InputError, match="was given on"):
        store.promote("writer", "style", "v0002", verdict=verdict)
    failed = PASSED.model_copy(update={"passed": False})
    store.record_verdict("writer", "style", "v0001", failed)
    with pytest.raises(GateFailed, match="did not pass"):
        store.promote("writer", "style", "v0001")
    with pytest.raises(InputError, match="aliases may move"):
        store.record_verdict("writer", "style", "candidate", PASSED)
    moved = first.folder.parent / "verdicts"
    (moved / f"{first.digest}.json").rename(moved / f"{second.digest}.json")
    with pytest.raises(InputError, match="verdict is of"):
        store.promote("writer", "style", "v0002")


def test_a_changed_file_never_reaches_production(store: Store, adapter: Path, makes: ModuleType) -> None:
    stored = store.publish("writer", "style", adapter, makes.a_manifest())
    weights = stored.folder / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x3f")
    assert store.verify("writer", "style", "candidate")
    with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors: sha256"):
        store.promote("writer", "style", force=True, reason="hurry")


def test_an_alias_that_moves_during_a_promotion_is_noticed(
    store: Store, adapter: Path, makes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("writer", "style", adapter, makes.a_manifest())

    def meanwhile(*arguments: object) -> None:
        monkeypatch.undo()
        store.publish("writer", "style", adapter, makes.a_manifest())

    monkeypatch.setattr(store_module, "check_gate", meanwhile)
    with pytest.raises(StoreBusy, match="candidate of writer/style moved"):
        store.promote("writer", "style")
    assert store.aliases("writer", "style").production is None


def test_what_is_aliased_is_not_removed_and_no_number_comes_twice(
    store: Store, adapter: Path, makes: ModuleType
) -> None:
    for _ in range(3):
        store.publish("writer", "style", adapter, makes.a_manifest())
    store.promote("writer", "style", "v0001", force=True, reason="test")
    for version, why in (("v0001", "production"), ("v0003", "candidate")):
        with pytest.raises(Refusal, match=why):
            store.remove("writer", "style", version)
    store.remove("writer", "style", "v0002", reason="unused")
    assert [stored.version for stored in store.versions("writer", "style")] == ["v0001", "v0003"]
    store.promote("writer", "style", "v0003", force=True, reason="test")
    store.publish("writer", "style", adapter, makes.a_manifest())
    assert store.publish("writer", "style", adapter, makes.a_manifest()).version == "v0005"
    store.remove("writer", "style", "v0004")
    with pytest.raises(InputError, match="not a version"):
        store.remove("writer", "style", "candidate")


def test_unknown_names_get_the_nearest_known(store: Store, adapter: Path, makes: ModuleType) -> None:
    with pytest.raises(UnknownName, match="this store is empty"):
        store.resolve("writer", "style@production")
    store.publish("writer", "style", adapter, makes.a_manifest())
    with pytest.raises(UnknownName, match="did you mean 'writer/style'"):
        store.resolve("writer", "stile@production")
    with pytest.raises(UnknownName, match=r"has no 'production'.*Allowed: candidate \(v0001\), v0001"):
        store.resolve("writer", "style@production")
    with pytest.raises(UnknownName, match="has no 'v0002'"):
        store.promote("writer", "style", "v0002")
    for reference in ("style", "style@", "style@newest", "../style@v0001", "style@v0001/.."):
        with pytest.raises(InputError):
            store.resolve("writer", reference)


@pytest.mark.parametrize("agent", ["..", "a/b", "", ".x"])
def test_no_name_leaves_the_store(store: Store, adapter: Path, makes: ModuleType, agent: str) -> None:
    with pytest.raises(InputError, match="cannot name an agent"):
        store.publish(agent, "style", adapter, makes.a_manifest(agent))
    with pytest.raises(InputError, match="cannot name an adapter"):
        store.publish("writer", agent, adapter, makes.a_manifest("writer", agent))
    assert not store.root.exists()


def test_wrong_use_is_said_before_anything_is_written(store: Store, adapter: Path, makes: ModuleType) -> None:
    with pytest.raises(InputError, match="manifest is of reader/style"):
        store.publish("writer", "style", adapter, makes.a_manifest("reader"))
    with pytest.raises(InputError, match="no such folder"):
        store.publish("writer", "style", adapter / "nothing", makes.a_manifest())
    assert not store.root.exists()
    assert store.list() == []


@pytest.mark.parametrize("url", ["s3://bucket/store", "memory://x", "https://example.org/s", "gs://a"])
def test_a_url_says_what_is_supported(url: str) -> None:
    with pytest.raises(InputError, match="Allowed: a local folder"):
        Store(url)
    with pytest.raises(InputError, match="Allowed: a local folder"):
        Store(Path(url))


def test_a_home_that_nobody_has_is_an_error_of_ours() -> None:
    with pytest.raises(InputError, match="home directory"):
        Store("~nobody-of-that-name/store")
