"""A version in one tar file or folder that another store imports: its files, manifest, verdict and log, with the digest of each.

`archive.json` stands first and lists everything else; what it does not list, or lists otherwise, is refused. An archive is not
signed: its own digest, told beside it, is what shows that nobody made it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field, ValidationError

from onecard.adapters import archive_tar, durable
from onecard.adapters.journal import LogEntry
from onecard.adapters.manifest import Manifest, OriginRecord, Record, Verdict
from onecard.adapters.store import Store, StoredVersion
from onecard.adapters.verification import MANIFEST, check_files, digest_of
from onecard.errors import AdapterRefused, InputError

INDEX, VERDICT, LOG = "archive.json", "verdict.json", "log.jsonl"
SMALL_BYTES = 16 << 20  # of everything that is read into memory
SIZE_LIMIT_BYTES = 64 << 30
FILES_LIMIT = 64


class ArchivedFile(Record):
    """One file of the archive."""

    bytes: int = Field(ge=0, le=SIZE_LIMIT_BYTES)
    sha256: str = Field(pattern="[0-9a-f]{64}")


class ArchiveIndex(Record):
    """What stands in archive.json. `address` is the version's in the store it comes from, `digest` the version's own."""

    schema_version: int = Field(1, ge=1, le=1)
    address: str
    digest: str
    exported_at: str
    files: dict[str, ArchivedFile] = Field(max_length=FILES_LIMIT)

    @property
    def archive_digest(self) -> str:
        """sha256 over the sorted lines of all files: the archive's identity, in a tar or in a folder."""
        return digest_of({name: file.sha256 for name, file in self.files.items()})


@dataclass(frozen=True)
class Archive:
    """An archive that was read whole and is what it says. `folder` holds the adapter's own files."""

    index: ArchiveIndex
    manifest: Manifest
    verdict: Verdict | None
    log: tuple[LogEntry, ...]
    folder: Path


def export_version(store: Store, stored: StoredVersion, target: Path, at: str) -> ArchiveIndex:
    """Writes a version to `target`: a tar file when the name ends in .tar, else a folder. It appears at once, or not at all.

    AdapterRefused when the version is not what was published; InputError when the target exists.
    """
    if target.exists() or target.is_symlink():
        raise InputError("exists already", where=str(target), next_step="name a new file or folder")
    if found := store.verify(stored.agent, stored.name, stored.version):
        raise AdapterRefused(f"{stored.address} is not what was published: {'; '.join(found)}", where=stored.where)
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = sum((stored.folder / name).stat().st_size for name in stored.manifest.files) + durable.SPARE_BYTES
    with durable.disk_errors(target, 2 * needed), TemporaryDirectory(dir=target.parent, prefix=".onecard-") as place:
        folder = Path(place) / "archive"
        folder.mkdir()
        index = _fill(folder, store, stored, at)
        ready = folder
        if target.suffix == ".tar":
            ready = Path(place) / "archive.tar"
            archive_tar.write(ready, folder, [INDEX, *index.files])
        ready.rename(target)
        durable.flush_folder(target.parent)
    return index


def _fill(folder: Path, store: Store, stored: StoredVersion, at: str) -> ArchiveIndex:
    """The archive's files in an empty folder; those of the version must have the digests of its manifest."""
    digests = {name: durable.copy_with_digest(stored.folder / name, folder / name) for name in stored.manifest.files}
    if digest_of(digests) != stored.digest:
        raise AdapterRefused("its files changed while they were copied", where=stored.where, next_step="try again")
    beside = {MANIFEST: stored.manifest.model_dump_json(indent=2) + "\n", LOG: _excerpt(store, stored)}
    if verdict := store.verdict(stored):
        beside[VERDICT] = verdict.model_dump_json(indent=2) + "\n"
    for name, text in beside.items():
        durable.write_new(folder / name, text.encode())
        digests[name] = durable.file_digest(folder / name)
    files = {n: ArchivedFile(bytes=(folder / n).stat().st_size, sha256=d) for n, d in sorted(digests.items())}
    index = ArchiveIndex(address=stored.address, digest=stored.digest, exported_at=at, files=files)
    durable.write_new(folder / INDEX, index.model_dump_json(indent=2).encode() + b"\n")
    return index


def _excerpt(store: Store, stored: StoredVersion) -> str:
    """The lines of the log that are about this version."""
    lines = [
        entry.model_dump_json() for entry in store.log(stored.agent, stored.name) if entry.version == stored.version
    ]
    return "".join(line + "\n" for line in lines)


@contextmanager
def opened(source: Path) -> Iterator[Archive]:
    """A whole archive, its files in a temporary folder of our own while the block runs; AdapterRefused with what is wrong."""
    if not source.exists():
        raise InputError("no such file or folder", where=str(source))
    with TemporaryDirectory(prefix="onecard-import-") as place:
        folder = Path(place) / "files"
        folder.mkdir()
        with durable.disk_errors(Path(place)):
            index = _copy_folder(source, folder) if source.is_dir() else _unpack_tar(source, folder)
        yield _checked(source, folder, index)


def is_archive(source: Path) -> bool:
    """True for a file, or a folder with an archive.json; a plain PEFT folder has none."""
    return source.is_file() or (source / INDEX).is_file()


def _unpack_tar(source: Path, folder: Path) -> ArchiveIndex:
    return archive_tar.read(source, folder, INDEX, _parse_index, SMALL_BYTES)


def _copy_folder(source: Path, folder: Path) -> ArchiveIndex:
    if (source / INDEX).is_symlink() or (source / INDEX).stat().st_size > SMALL_BYTES:
        raise AdapterRefused("a link or too large", where=str(source / INDEX))
    index = _parse_index((source / INDEX).read_bytes(), str(source / INDEX))
    there = {path.name for path in source.iterdir()} - {INDEX}
    if strange := sorted(there ^ set(index.files)):
        raise AdapterRefused(f"{INDEX} and the folder differ about {ascii(strange)[:200]}", where=str(source))
    for name, file in index.files.items():
        found = (source / name).lstat()
        if (source / name).is_symlink() or not (source / name).is_file() or found.st_size != file.bytes:
            raise AdapterRefused(f"not a plain file of {file.bytes:,} bytes", where=str(source / name))
        if durable.copy_with_digest(source / name, folder / name) != file.sha256:
            raise AdapterRefused("altered: its digest is not the one of the archive", where=str(source / name))
    return index


def _parse_index(content: bytes, where: str) -> ArchiveIndex:
    index: ArchiveIndex = _record(ArchiveIndex, content, where)
    for name in index.files:
        if Path(name).name != name or name in ("", ".", "..", INDEX) or "\\" in name or not name.isascii():
            raise AdapterRefused(f"{ascii(name)[:120]} is not the name of a file in a flat folder", where=where)
    if sum(file.bytes for file in index.files.values()) > SIZE_LIMIT_BYTES:
        raise AdapterRefused(f"over the limit of {SIZE_LIMIT_BYTES:,} bytes", where=where)
    for name in (MANIFEST, VERDICT, LOG):
        if name in index.files and index.files[name].bytes > SMALL_BYTES:
            raise AdapterRefused(f"{name} has {index.files[name].bytes:,} bytes, over the limit", where=where)
    return index


def _checked(source: Path, folder: Path, index: ArchiveIndex) -> Archive:
    """The files meet their manifest, and the parts say the same. What is not the adapter's own leaves the folder."""
    where = str(source)
    manifest = _record(Manifest, _taken(folder, MANIFEST), f"{where}: {MANIFEST}")
    verdict = _record(Verdict, content, f"{where}: {VERDICT}") if (content := _taken(folder, VERDICT)) else None
    lines = _taken(folder, LOG).splitlines()
    log = tuple(_record(LogEntry, line, f"{where}: {LOG}") for line in lines)
    own = {name: file.sha256 for name, file in index.files.items() if name not in (MANIFEST, VERDICT, LOG)}
    for what, value, expected in (
        ("the manifest's list of files", manifest.files, own),
        ("the manifest's digest", manifest.digest, digest_of(own)),
        ("the archive's digest of the version", index.digest, manifest.digest),
        ("the archive's address", index.address, f"{manifest.agent}/{manifest.name}@{manifest.version}"),
        ("the verdict's digest", verdict.digest if verdict else manifest.digest, manifest.digest),
    ):
        if value != expected:
            raise AdapterRefused(f"altered: {what} is not that of the files in it", where=where)
    published = [entry for entry in log if entry.action == "publish" and entry.digest]
    if any(entry.version != manifest.version for entry in log) or any(e.digest != manifest.digest for e in published):
        raise AdapterRefused("altered: the log in it is of another version", where=where)
    check_files(folder)
    return Archive(index, manifest, verdict, log, folder)


def import_version(
    store: Store, archive: Archive, agent: str, name: str, by: str | None = None, with_verdict: bool = False
) -> StoredVersion:
    """Publishes an archive's version under agent/name; its digest stays, and `origin` says where it was exported from.

    With `with_verdict` the archive's verdict counts here too, as if the suite had run here.
    """
    changed = {"agent": agent, "name": name, "version": "", "parent": None, "origin": _origin(archive)}
    stored = store.publish(agent, name, archive.folder, archive.manifest.model_copy(update=changed), by=by)
    if with_verdict and archive.verdict:
        store.record_verdict(agent, name, stored.version, archive.verdict)
    return stored


def _origin(archive: Archive) -> OriginRecord:
    """The version in the store it comes from. What was not known there is not known here."""
    manifest, earlier = archive.manifest, archive.manifest.origin
    before = f"imported from {earlier.address}" if earlier else manifest.parent and f"trained after {manifest.parent}"
    return OriginRecord(
        address=archive.index.address,
        digest=manifest.digest,
        exported_at=archive.index.exported_at,
        trained_here=manifest.trained_here,
        unknown=earlier.unknown if earlier else (),
        assumed=earlier.assumed if earlier else (),
        before=before,
    )


def _taken(folder: Path, name: str) -> bytes:
    """A file's content, which leaves the folder; empty when there is none."""
    content = durable.read_bytes(folder / name) or b""
    (folder / name).unlink(missing_ok=True)
    return content


def _record(kind: type[Any], content: bytes, where: str) -> Any:
    try:
        return kind.model_validate(json.loads(content))
    except (ValidationError, ValueError, RecursionError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise AdapterRefused(f"cannot be read ({problem[:200]})", where=where, next_step="export it again") from None
