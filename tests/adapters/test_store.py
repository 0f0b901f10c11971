"""The store as its users see it: publish, resolve, promote, roll back, verify, remove, and clear errors."""

from __future__ import annotations

import json
import subprocess
import sys
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


def test_adapters_do_not_touch_each_other(any_store: Store, adapter: Path, tmp_path: Path, makes: ModuleType) -> None:
    first = any_store.publish("writer", "style", adapter, makes.a_manifest())
    before = makes.tree(first.folder)
    other = makes.write_adapter(tmp_path / "other", seed=9)
    second = any_store.publish("reader", "style", other, makes.a_manifest("reader"))
    third = any_store.publish("writer", "style", other, makes.a_manifest())
    assert makes.tree(first.folder) == before
    assert first.digest != second.digest == third.digest
    assert [(item.agent, item.name, item.versions) for item in any_store.list()] == [
        ("reader", "style", ("v0001",)),
        ("writer", "style", ("v0001", "v0002")),
    ]


def test_the_way_to_production_and_back(any_store: Store, adapter: Path, makes: ModuleType) -> None:
    for _ in range(3):
        any_store.publish("writer", "style", adapter, makes.a_manifest())
    with pytest.raises(GateFailed, match="not been evaluated"):
        any_store.promote("writer", "style")
    assert any_store.promote("writer", "style", verdict=PASSED).version == "v0003"
    before = any_store.aliases("writer", "style")
    any_store.promote("writer", "style", "v0002")
    any_store.promote("writer", "style", "v0001", force=True, reason="a question of taste", by="ada")
    assert any_store.log("writer", "style")[-1].model_dump(include={"by", "reason", "forced"}) == {
        "by": "ada",
        "reason": "a question of taste",
        "forced": True,
    }
    assert any_store.resolve("writer", "style@production").version == "v0001"
    assert any_store.resolve("writer", "style@previous").version == "v0002"
    assert any_store.rollback("writer", "style").version == "v0002"
    assert any_store.rollback("writer", "style").version == "v0003"
    assert any_store.aliases("writer", "style") == before
    with pytest.raises(Refusal, match="no earlier production"):
        any_store.rollback("writer", "style")


def test_promoting_what_is_in_production_changes_nothing(any_store: Store, adapter: Path, makes: ModuleType) -> None:
    any_store.publish("writer", "style", adapter, makes.a_manifest())
    any_store.promote("writer", "style", verdict=PASSED)
    before = any_store.log("writer", "style")
    any_store.promote("writer", "style")
    assert any_store.log("writer", "style") == before


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
    any_store: Store, adapter: Path, makes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_store.publish("writer", "style", adapter, makes.a_manifest())

    def meanwhile(*arguments: object) -> None:
        monkeypatch.undo()
        any_store.publish("writer", "style", adapter, makes.a_manifest())

    monkeypatch.setattr(store_module, "check_gate", meanwhile)
    with pytest.raises(StoreBusy, match="candidate of writer/style moved"):
        any_store.promote("writer", "style")
    assert any_store.aliases("writer", "style").production is None


def judged_beside(production: str | None) -> Verdict:
    """A passing verdict that compared a candidate with this digest in production."""
    return PASSED.model_copy(update={"summary": {"judged_against": {"production": production}}})


def test_a_verdict_is_of_no_use_once_production_changed(any_store: Store, tmp_path: Path, makes: ModuleType) -> None:
    first, second, third = (
        any_store.publish("writer", "style", makes.write_adapter(tmp_path / f"a{n}", 0.5 + n), makes.a_manifest())
        for n in range(3)
    )
    any_store.promote("writer", "style", "v0001", verdict=judged_beside(None))
    for version in ("v0002", "v0003"):
        any_store.record_verdict("writer", "style", version, judged_beside(first.digest))
    any_store.promote("writer", "style", "v0002")
    any_store.promote("writer", "style", "v0002")  # itself: nothing to compare, and nothing to do
    with pytest.raises(GateFailed, match=f"{first.digest[:12]} in production, and now {second.digest[:12]}") as caught:
        any_store.promote("writer", "style", "v0003")
    assert "evaluate again" in (caught.value.next_step or "")
    any_store.promote("writer", "style", "v0003", force=True, reason="seen by hand")
    last = any_store.log("writer", "style")[-1]
    assert (last.version, last.forced, last.reason) == ("v0003", True, "seen by hand")
    any_store.rollback("writer", "style")
    any_store.rollback("writer", "style")
    assert any_store.promote("writer", "style", "v0003").digest == third.digest  # what it was compared with is back


def test_production_that_changes_during_a_promotion_is_noticed(
    any_store: Store, tmp_path: Path, makes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(2):
        any_store.publish("writer", "style", makes.write_adapter(tmp_path / f"a{n}", 0.5 + n), makes.a_manifest())
    any_store.record_verdict("writer", "style", "v0002", judged_beside(None))

    def meanwhile(*arguments: object) -> None:
        monkeypatch.undo()
        any_store.promote("writer", "style", "v0001", force=True, reason="hurry")

    monkeypatch.setattr(store_module, "_check_unchanged", meanwhile)
    with pytest.raises(GateFailed, match="against nothing in production"):
        any_store.promote("writer", "style", "v0002")
    assert any_store.aliases("writer", "style").production == "v0001"


def test_what_is_aliased_is_not_removed_and_no_number_comes_twice(
    any_store: Store, adapter: Path, makes: ModuleType
) -> None:
    for _ in range(3):
        any_store.publish("writer", "style", adapter, makes.a_manifest())
    any_store.promote("writer", "style", "v0001", force=True, reason="test")
    for version, why in (("v0001", "production"), ("v0003", "candidate")):
        with pytest.raises(Refusal, match=why):
            any_store.remove("writer", "style", version)
    any_store.remove("writer", "style", "v0002", reason="unused")
    assert [stored.version for stored in any_store.versions("writer", "style")] == ["v0001", "v0003"]
    any_store.promote("writer", "style", "v0003", force=True, reason="test")
    any_store.publish("writer", "style", adapter, makes.a_manifest())
    assert any_store.publish("writer", "style", adapter, makes.a_manifest()).version == "v0005"
    any_store.remove("writer", "style", "v0004")
    with pytest.raises(InputError, match="not a version"):
        any_store.remove("writer", "style", "candidate")


def test_unknown_names_get_the_nearest_known(any_store: Store, adapter: Path, makes: ModuleType) -> None:
    with pytest.raises(UnknownName, match="this store is empty"):
        any_store.resolve("writer", "style@production")
    any_store.publish("writer", "style", adapter, makes.a_manifest())
    with pytest.raises(UnknownName, match="did you mean 'writer/style'"):
        any_store.resolve("writer", "stile@production")
    with pytest.raises(UnknownName, match=r"has no 'production'.*Allowed: candidate \(v0001\), v0001"):
        any_store.resolve("writer", "style@production")
    with pytest.raises(UnknownName, match="has no 'v0002'"):
        any_store.promote("writer", "style", "v0002")
    for reference in ("style", "style@", "style@newest", "../style@v0001", "style@v0001/.."):
        with pytest.raises(InputError):
            any_store.resolve("writer", reference)


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


@pytest.mark.parametrize("url", ["https://example.org/s", "ftp://host/x", "sftp://host/x", "simplecache::s3://b/x"])
def test_a_place_that_cannot_keep_a_store_is_refused_by_name(url: str) -> None:
    with pytest.raises(InputError, match=r"does not promise .* Allowed: a local folder, or a URL with s3://"):
        Store(url)


@pytest.mark.parametrize("url", ["s3://", "s3://bucket/../x", "s3://bucket//x", "s3://bucket/a*", "memory:///x"])
def test_a_url_that_names_no_place_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="not the URL of a store"):
        Store(url)


def test_a_url_as_a_path_has_lost_a_slash() -> None:
    with pytest.raises(InputError, match="as text and not as a path"):
        Store(Path("s3://bucket/store"))


def test_a_url_of_a_file_is_a_folder(tmp_path: Path) -> None:
    assert Store(f"file://{tmp_path}/store").root == tmp_path / "store"


def test_where_it_is_and_where_runs_keep_their_files(tmp_path: Path) -> None:
    local, remote = Store(tmp_path / "store"), Store("memory://here/store", cache=tmp_path / "cache" / "adapters")
    assert (local.where, local.runs_folder, local.exists()) == (
        str(tmp_path / "store"),
        tmp_path / "store-runs",
        False,
    )
    assert (remote.where, remote.runs_folder, remote.exists()) == (
        "memory://here/store",
        tmp_path / "cache" / "runs",
        False,
    )
    with pytest.raises(InputError, match="has no folder"):
        _ = remote.root


def test_a_whole_life_is_told_by_log_and_aliases_alike(any_store: Store, adapter: Path, makes: ModuleType) -> None:
    first = any_store.publish("writer", "style", adapter, makes.a_manifest(), by="ada")
    assert any_store.exists()
    assert any_store.resolve("writer", "style@candidate") == first
    any_store.publish("writer", "style", adapter, makes.a_manifest(), by="ada")
    verdict = any_store.record_verdict("writer", "style", "v0001", PASSED)
    assert any_store.verdict(first) == verdict
    any_store.promote("writer", "style", "v0001", by="ada")
    before = any_store.aliases("writer", "style")
    any_store.promote("writer", "style", "v0002", by="bob", force=True, reason="a try")
    any_store.rollback("writer", "style", by="bob", reason="worse")
    assert any_store.aliases("writer", "style") == before
    entries = any_store.log("writer", "style")
    assert [(entry.by, entry.action, entry.version) for entry in entries] == [
        ("ada", "publish", "v0001"),
        ("ada", "publish", "v0002"),
        ("ada", "promote", "v0001"),
        ("bob", "promote", "v0002"),
        ("bob", "rollback", "v0001"),
    ]
    assert entries[-1].aliases == before
    assert [any_store.verify("writer", "style", v) for v in ("v0001", "v0002")] == [[], []]


def test_a_published_folder_holds_the_files_as_they_were(any_store: Store, adapter: Path, makes: ModuleType) -> None:
    published = any_store.publish("writer", "style", adapter, makes.a_manifest())
    for stored in (published, any_store.resolve("writer", "style@v0001")):
        files = {file.name: file.read_bytes() for file in stored.folder.iterdir() if file.name != "manifest.json"}
        assert files == {file.name: file.read_bytes() for file in adapter.iterdir()}
        assert json.loads((stored.folder / "manifest.json").read_text()) == stored.manifest.model_dump(mode="json")


def test_a_refused_adapter_leaves_nothing(any_store: Store, adapter: Path, makes: ModuleType) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(makes.safetensors_bytes({}))
    with pytest.raises(AdapterRefused):
        any_store.publish("writer", "style", adapter, makes.a_manifest())
    assert any_store.list() == []
    assert not any_store.exists()


@pytest.mark.parametrize(("where", "kills", "promotes"), [("local", 12, 100), ("s3", 2, 8)])
def test_kills_and_crowds_lose_nothing(where: str, kills: int, promotes: int, tmp_path: Path) -> None:
    """The benchmark that does it a hundred and a thousand times, in small."""
    program = Path(__file__).parents[2] / "benchmarks" / "store_kills.py"
    numbers = ["--kills", str(kills), "--promotes", str(promotes), "--processes", "2", "--threads", "2"]
    told = subprocess.run(
        [sys.executable, str(program), "--where", where, *numbers, "--out", str(tmp_path / "seen.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())[where]
    assert seen["kills"]["killed"] == kills
    assert seen["kills"]["versions"] >= seen["kills"]["told_published"]
    assert (seen["promotes"]["told_done"], seen["promotes"]["told_busy"]) == (promotes, 0)


def test_a_local_store_needs_none_of_the_optional_parts(tmp_path: Path) -> None:
    code = (
        "import sys; from onecard.adapters.store import Store; Store(sys.argv[1]).list();"
        "sys.exit(bool({'fsspec', 's3fs', 'botocore', 'aiohttp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_a_home_that_nobody_has_is_an_error_of_ours() -> None:
    with pytest.raises(InputError, match="home directory"):
        Store("~nobody-of-that-name/store")
