"""A version travels to another store in one file or folder, whole and unaltered, or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.adapters.archive import INDEX, SMALL_BYTES, export_version, import_version, is_archive, opened
from onecard.adapters.archive_plain import manifest_of
from onecard.adapters.manifest import BaseModelRecord, OriginRecord, Verdict
from onecard.adapters.store import Store, StoredVersion
from onecard.adapters.verification import WEIGHTS, digest_of
from onecard.errors import AdapterRefused, InputError, OnecardError

AT = "2026-11-21T12:00:00.000Z"


@pytest.fixture
def stored(store: Store, adapter: Path, makes: ModuleType) -> StoredVersion:
    """writer/style@v0002, with a verdict; v0001 has other files."""
    store.publish("writer", "style", makes.write_adapter(adapter.parent / "first", 7.5), makes.a_manifest())
    stored = store.publish("writer", "style", adapter, makes.a_manifest(parent="writer/style@v0001"), by="ada")
    verdict = Verdict(passed=True, at=AT, suite_digest="s", summary={"terse": 0.97})
    store.record_verdict("writer", "style", stored.version, verdict)
    return stored


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


@pytest.fixture(params=["style.tar", "style"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, store: Store, stored: StoredVersion) -> Path:
    """The version as a tar, and as a folder."""
    target = tmp_path / "out" / request.param
    export_version(store, stored, target, AT)
    return target


def test_another_store_gets_the_same_version(archive: Path, store: Store, stored: StoredVersion, other: Store) -> None:
    assert is_archive(archive)
    with opened(archive) as read:
        assert [entry.by for entry in read.log if entry.action == "publish"] == ["ada"]
        imported = import_version(other, read, "reader", "calm", by="bob")
    assert imported.address == "reader/calm@v0001" and imported.digest == stored.digest
    assert other.verify("reader", "calm", "v0001") == []
    assert imported.manifest.origin == OriginRecord(
        address="writer/style@v0002", digest=stored.digest, exported_at=AT, trained_here=True,
        before="trained after writer/style@v0001",
    )  # fmt: skip
    assert imported.manifest.parent is None, "a parent is a version of its own store"
    changed = {"agent", "name", "version", "parent", "origin"}
    assert imported.manifest.model_dump(exclude=changed) == stored.manifest.model_dump(exclude=changed)
    assert {f.name: f.read_bytes() for f in imported.folder.iterdir() if f.name in stored.manifest.files} == {
        f.name: f.read_bytes() for f in stored.folder.iterdir() if f.name in stored.manifest.files
    }
    assert other.log("reader", "calm")[-1].by == "bob"


def test_what_nobody_knew_there_nobody_knows_here(tmp_path: Path, store: Store, other: Store, adapter: Path) -> None:
    """A LoRA made elsewhere goes through two stores and stays one."""
    base = BaseModelRecord(id="org/base", fingerprint="f" * 64, quantization="none")
    plain = manifest_of(adapter, "writer", "found", base, "c" * 64, (2,), "the folder my-lora")
    export_version(store, store.publish("writer", "found", adapter, plain), tmp_path / "found.tar", AT)
    with opened(tmp_path / "found.tar") as read:
        found = import_version(other, read, "writer", "found")
    assert found.manifest.training is None and not found.manifest.trained_here
    origin = other.resolve("writer", "found@v0001").manifest.origin
    assert origin and origin.address == "writer/found@v0001" and origin.before == "imported from the folder my-lora"
    assert plain.origin and (origin.unknown, origin.assumed) == (plain.origin.unknown, plain.origin.assumed)


def test_a_verdict_counts_elsewhere_only_when_it_is_wanted(archive: Path, store: Store, other: Store) -> None:
    with opened(archive) as read:
        without = import_version(other, read, "writer", "style")
        assert other.verdict(without) is None
        trusted = import_version(other, read, "writer", "trusted", with_verdict=True)
    assert other.verdict(trusted) == store.verdict(store.resolve("writer", "style@v0002"))


def test_a_tar_and_a_folder_hold_the_same(tmp_path: Path, store: Store, stored: StoredVersion) -> None:
    """And twice the same version gives twice the same bytes: the archive's digest names it."""
    digests = {
        name: export_version(store, stored, tmp_path / name, AT).archive_digest for name in ("a.tar", "b.tar", "c")
    }
    assert len(set(digests.values())) == 1
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames()[0] == INDEX and all(member.isreg() and member.mtime == 0 for member in tar.getmembers())
        assert sorted(tar.getnames()) == sorted(path.name for path in (tmp_path / "c").iterdir())


def test_nothing_is_overwritten_and_nothing_half_is_left(
    tmp_path: Path, store: Store, stored: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_version(store, stored, tmp_path / "there", AT)
    from onecard.adapters import archive_tar

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive_tar, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        export_version(store, stored, tmp_path / "new" / "x.tar", AT)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_version_that_was_altered_is_not_exported(tmp_path: Path, store: Store, stored: StoredVersion) -> None:
    readme = stored.folder / "README.md"
    readme.chmod(0o644)
    readme.write_text("something else")
    with pytest.raises(AdapterRefused, match=r"README\.md: sha256"):
        export_version(store, stored, tmp_path / "x.tar", AT)


# What somebody may have done to the folder of an archive.

Change = Callable[[Path], Any]


def resealed(change: Change) -> Change:
    """The change, and then an archive.json with the new digests: only what the parts say of each other can tell."""

    def spoil(folder: Path) -> None:
        from hashlib import sha256

        change(folder)
        index = json.loads((folder / INDEX).read_text())
        index["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path.read_bytes()).hexdigest()}
            for path in sorted(folder.iterdir())
            if path.name != INDEX
        }
        (folder / INDEX).write_text(json.dumps(index))

    return spoil


def one_byte(name: str) -> Change:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(content)

    return spoil


def in_json(name: str, *path: str, to: Any) -> Change:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        (folder / name).write_text(json.dumps(content))

    return spoil


def index_file(name: str, size: int = 1) -> Change:
    return in_json(INDEX, "files", name, to={"bytes": size, "sha256": "0" * 64})


ALTERED: dict[str, tuple[Change, str]] = {
    "one byte of the weights": (one_byte(WEIGHTS), "altered"),
    "one byte of the manifest": (one_byte("manifest.json"), "altered"),
    "one byte of the log": (one_byte("log.jsonl"), "altered"),
    "one byte of the verdict": (one_byte("verdict.json"), "altered"),
    "one byte of the weights, sealed again": (resealed(one_byte(WEIGHTS)), "altered: the manifest's list of files"),
    "a file more, sealed again": (resealed(lambda f: (f / "tokenizer.json").write_text("{}")), "the manifest's list of files"),
    "a file less, sealed again": (resealed(lambda f: (f / "README.md").unlink()), "the manifest's list of files"),
    "another digest in the manifest": (resealed(in_json("manifest.json", "digest", to="0" * 64)), "the manifest's digest"),
    "another address": (in_json(INDEX, "address", to="writer/style@v0009"), "the archive's address"),
    "another digest in the index": (in_json(INDEX, "digest", to="0" * 64), "the archive's digest"),
    "a verdict on another version": (resealed(in_json("verdict.json", "digest", to="0" * 64)), "the verdict's digest"),
    "the log of another version": (
        resealed(lambda f: (f / "log.jsonl").write_text((f / "log.jsonl").read_text().replace("v0002", "v0001"))), "the log in it"),
    "a file that is not listed": (lambda f: (f / "more.json").write_text("{}"), "differ|not in archive.json"),
    "a file that is missing": (lambda f: (f / "README.md").unlink(), "differ|cut off"),
    "a path that leaves": (index_file("../../evil"), "not the name of a file"),
    "an absolute path": (index_file("/tmp/evil"), "not the name of a file"),
    "a backslash": (index_file("..\\evil"), "not the name of a file"),
    "a name of dots": (index_file(".."), "not the name of a file"),
    "itself": (index_file(INDEX), "not the name of a file"),
    "a size of 2^63": (index_file("big", 1 << 63), "cannot be read"),
    "a negative size": (index_file("big", -1), "cannot be read"),
    "many large files": (
        in_json(INDEX, "files", to={f"f{n}": {"bytes": 40 << 30, "sha256": "0" * 64} for n in range(2)}), "over the limit"),
    "a thousand files": (
        in_json(INDEX, "files", to={f"f{n}": {"bytes": 1, "sha256": "0" * 64} for n in range(1000)}), "cannot be read"),
    "a large manifest": (index_file("manifest.json", SMALL_BYTES + 1), "over the limit"),
    "an index of another year": (in_json(INDEX, "schema_version", to=2), "cannot be read"),
    "an unknown key": (in_json(INDEX, "script", to="rm"), "cannot be read"),
    "an index that is no JSON": (lambda f: (f / INDEX).write_text("{"), "cannot be read"),
    "an index of lists in lists": (lambda f: (f / INDEX).write_text("[" * 100_000), "cannot be read"),
    "a manifest that is none": (resealed(lambda f: (f / "manifest.json").write_text("{}")), "cannot be read"),
    "a pickle": (resealed(lambda f: (f / "adapter_model.bin").write_bytes(b"x")), "pickle|the manifest's list"),
}  # fmt: skip


def packed(folder: Path, target: Path) -> Path:
    """A folder as a tar, whatever is in it."""
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in [INDEX, *sorted(path.name for path in folder.iterdir() if path.name != INDEX)]:
            tar.add(folder / name, name)
    return target


@pytest.fixture
def folder(tmp_path: Path, store: Store, stored: StoredVersion) -> Path:
    export_version(store, stored, tmp_path / "archive", AT)
    return tmp_path / "archive"


def refuses(source: Path, problem: str, other: Store) -> None:
    with pytest.raises(AdapterRefused, match=problem) as caught, opened(source) as read:
        import_version(other, read, "writer", "style")
    assert caught.value.where and str(caught.value).isprintable()
    assert not other.root.exists()


@pytest.mark.parametrize("change", ALTERED)
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_what_was_altered_is_refused(form: str, change: str, folder: Path, other: Store, tmp_path: Path) -> None:
    spoil, problem = ALTERED[change]
    spoil(folder)
    refuses(folder if form == "folder" else packed(folder, tmp_path / "x.tar"), problem, other)
    assert not (tmp_path / "evil").exists() and not Path("/tmp/evil").exists()


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "folder"])
def test_only_plain_files_are_taken_from_a_folder(kind: str, folder: Path, other: Store, tmp_path: Path) -> None:
    readme, outside = folder / "README.md", tmp_path / "outside"
    shutil.copy(readme, outside)
    readme.unlink()
    make = {
        "symbolic link": lambda: readme.symlink_to(outside),
        "pipe": lambda: os.mkfifo(readme),
        "folder": readme.mkdir,
    }
    if kind == "hard link":
        os.link(outside, readme)
        with opened(folder) as read:
            assert read.manifest.version == "v0002", "the bytes have the digest they should have"
        return
    make[kind]()
    refuses(folder, "not a plain file", other)


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any
) -> Callable[[tarfile.TarFile], None]:
    """One more member of a tar; `fields` go into its header as they are."""

    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content)
        for key, value in fields.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content) if content else None)

    return add


TARS: dict[str, tuple[Callable[[tarfile.TarFile], None], str]] = {
    "a symbolic link": (member("x", tarfile.SYMTYPE, linkname="/etc/passwd"), "not a plain file"),
    "a hard link": (member("x", tarfile.LNKTYPE, linkname=WEIGHTS), "not a plain file"),
    "a device": (member("x", tarfile.CHRTYPE), "not a plain file"),
    "a pipe": (member("x", tarfile.FIFOTYPE), "not a plain file"),
    "a folder": (member("x", tarfile.DIRTYPE), "not a plain file"),
    "a sparse file": (member("x", tarfile.GNUTYPE_SPARSE), "not a plain file"),
    "a long name": (member("x", tarfile.GNUTYPE_LONGNAME, b"y" * 600), "not a plain file"),
    "an extended header": (member("x", tarfile.XHDTYPE, b"20 path=../../evil\n"), "not a plain file"),
    "a global header": (member("x", tarfile.XGLTYPE, b"20 path=../../evil\n"), "not a plain file"),
    "a path that leaves": (member("../evil", content=b"x"), "is not in archive.json"),
    "an absolute path": (member("/tmp/evil", content=b"x"), "is not in archive.json"),
    "a file twice": (member("README.md", content=b"An adapter for tests.\n"), "is not in archive.json"),
    "a file not listed": (member("more", content=b"x"), "is not in archive.json"),
}  # fmt: skip


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("trick", TARS)
def test_a_tar_holds_plain_files_and_nothing_else(
    trick: str, place: str, folder: Path, other: Store, tmp_path: Path
) -> None:
    add, problem = TARS[trick]
    names = [INDEX, *sorted(path.name for path in folder.iterdir() if path.name != INDEX)]
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        if place == "first":
            add(tar)
        for name in names:
            tar.add(folder / name, name)
        if place == "last":
            add(tar)
    refuses(tmp_path / "x.tar", f"{problem}|does not begin", other)
    assert not (tmp_path / "evil").exists()


def test_a_size_in_a_tar_that_lies(folder: Path, other: Store, tmp_path: Path) -> None:
    """8 GiB in the header of a small file: refused by the index, before anything is read."""
    tar = packed(folder, tmp_path / "x.tar")
    content = bytearray(tar.read_bytes())
    info = tarfile.TarInfo("README.md")
    info.size = (8 << 30) - 1
    place = content.index(b"README.md\x00", 1024)
    content[place : place + 512] = info.tobuf(tarfile.USTAR_FORMAT)
    tar.write_bytes(content)
    refuses(tar, "8,589,934,591 bytes is not in", other)


@pytest.mark.parametrize("content", [b"", b"x" * 511, bytes(1024), b"x" * 10240, b"\x1f\x8b" + bytes(600)])
def test_what_is_no_tar_is_refused(content: bytes, other: Store, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    refuses(tmp_path / "x.tar", "not an archive|does not begin|not a plain file", other)


def test_a_pipe_is_no_archive(other: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    refuses(tmp_path / "x.tar", "not a plain file", other)
    with pytest.raises(InputError, match="no such file"), opened(tmp_path / "none"):
        pass


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_change_of_a_tar_is_refused_or_changes_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, makes: ModuleType
) -> None:
    """Bytes overwritten, cut off or put in: refused in words, or every file is as it was."""
    place = tmp_path_factory.mktemp("fuzz")
    store = Store(place / "store")
    stored = store.publish("writer", "style", makes.write_adapter(place / "a"), makes.a_manifest())
    export_version(store, stored, place / "x.tar", AT)
    content = bytearray((place / "x.tar").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["overwrite", "cut", "insert"]))
    piece = data.draw(st.binary(min_size=1, max_size=40))
    if how == "overwrite":
        content[at : at + len(piece)] = piece
    elif how == "cut":
        del content[at:]
    else:
        content[at:at] = piece
    (place / "y.tar").write_bytes(content)
    try:
        with opened(place / "y.tar") as read:
            assert (
                read.manifest.digest
                == stored.digest
                == digest_of({n: f.sha256 for n, f in read.index.files.items() if n in stored.manifest.files})
            )
            imported = import_version(Store(place / "other"), read, "writer", "style")
            assert Store(place / "other").verify("writer", "style", imported.version) == []
    except OnecardError as error:
        assert str(error).isprintable()


def test_a_store_at_a_url_gives_and_takes_archives(
    tmp_path: Path, adapter: Path, makes: ModuleType, other: Store
) -> None:
    pytest.importorskip("fsspec")
    remote = Store("memory://archives-test", cache=tmp_path / "cache")
    stored = remote.publish("writer", "style", adapter, makes.a_manifest())
    export_version(remote, stored, tmp_path / "x.tar", AT)
    with opened(tmp_path / "x.tar") as read:
        assert import_version(other, read, "writer", "style").digest == stored.digest
        again = import_version(remote, read, "reader", "style")
    assert remote.verify("reader", "style", again.version) == []
