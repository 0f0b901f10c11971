"""One adapter's folder in a local store: what stands there, and the one way in which it changes.

Readers take no lock: versions are immutable and appear by one rename, aliases.json is replaced by one rename. Every change goes
through `_commit`, whose steps can all be taken back without needing free space.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from onecard.adapters import durable, journal
from onecard.adapters.address import Address, is_version, number_of, version_of
from onecard.adapters.aliases import Aliases, next_version_number, published
from onecard.adapters.journal import LogEntry
from onecard.adapters.lock import locked
from onecard.adapters.manifest import Manifest, Verdict
from onecard.adapters.place import Moment
from onecard.adapters.staging import staging, sweep
from onecard.adapters.verification import MANIFEST, check_adapter, differences, digest_of
from onecard.adapters.version import StoredVersion, now, read_manifest, read_verdict, resolved
from onecard.errors import AdapterRefused, InputError

ALIASES, LOG, VERDICTS = "aliases.json", "log.jsonl", "verdicts"


@dataclass(frozen=True)
class LocalPlace:
    """`<root>/agents/<agent>/adapters/<name>/` for every adapter. `lock_timeout_s`: how long a writer waits for another."""

    root: Path
    lock_timeout_s: float

    @property
    def where(self) -> str:
        return str(self.root)

    @property
    def runs_folder(self) -> Path:
        return self.root.with_name(f"{self.root.name}-runs")

    def exists(self) -> bool:
        return self.root.is_dir()

    def shelf(self, agent: str, name: str) -> Shelf:
        return Shelf(self.root / "agents" / agent / "adapters" / name, agent, name, self.root, self.lock_timeout_s)

    def names(self) -> Sequence[tuple[str, str]]:
        return [(folder.parts[-3], folder.name) for folder in sorted(self.root.glob("agents/*/adapters/*"))]


@dataclass(frozen=True)
class Shelf:
    """All versions of one adapter of one agent."""

    folder: Path
    agent: str
    name: str
    root: Path
    lock_timeout_s: float

    @property
    def address(self) -> str:
        return str(Address(self.agent, self.name))

    def exists(self) -> bool:
        return bool(self.versions()) or (self.folder / LOG).exists()

    def versions(self) -> list[str]:
        """Versions, oldest first. Links and hidden folders are not versions."""
        if not self.folder.is_dir():
            return []
        with durable.disk_errors(self.folder):
            found = [e.name for e in os.scandir(self.folder) if is_version(e.name) and e.is_dir(follow_symlinks=False)]
        return sorted(found, key=number_of)

    def aliases(self) -> Aliases:
        """The content of aliases.json; InputError with the way back when it is corrupt."""
        file = self.folder / ALIASES
        content = durable.read_bytes(file)
        try:
            return Aliases() if content is None else Aliases.model_validate_json(content)
        except ValidationError as error:
            raise InputError(
                f"corrupt aliases ({error.errors()[0]['msg']})",
                where=str(file),
                next_step=f"put the `aliases` of the last line of {LOG} beside it into the file",
            ) from None

    def entries(self) -> list[LogEntry]:
        return journal.read_journal(self.folder / LOG)

    def resolve(self, reference: str) -> str:
        return resolved(reference, self.versions, self.aliases, self.address, str(self.folder))

    def read(self, version: str) -> StoredVersion:
        folder = self.folder / version
        file = folder / MANIFEST
        manifest = read_manifest(durable.read_bytes(file), str(file), self.agent, self.name, version)
        return StoredVersion(self.agent, self.name, version, manifest.digest, folder, manifest)

    def verdict(self, digest: str) -> Verdict | None:
        file = self.folder / VERDICTS / f"{digest}.json"
        return read_verdict(durable.read_bytes(file), str(file), digest)

    def keep_verdict(self, verdict: Verdict, by: str) -> None:
        with durable.disk_errors(self.root), self._changing("recording a verdict", by):
            (self.folder / VERDICTS).mkdir(exist_ok=True)
            file = self.folder / VERDICTS / f"{verdict.digest}.json"
            durable.replace(file, verdict.model_dump_json(indent=2).encode() + b"\n")

    def differences(self, version: str) -> list[str]:
        try:
            stored = self.read(version)
        except AdapterRefused as error:
            return [f"{MANIFEST}: {error.problem}"]
        with durable.disk_errors(stored.folder):
            found = differences(stored.folder, stored.manifest)
        logged = {e.version: e.manifest_sha256 for e in self.entries() if e.action == "publish" and e.manifest_sha256}
        if version in logged and logged[version] != durable.file_digest(stored.folder / MANIFEST):
            found.append(f"{MANIFEST}: not the file that was published, by the sha256 in {LOG}")
        return found

    def publish(self, folder: Path, sizes: Mapping[str, int], manifest: Manifest, by: str) -> StoredVersion:
        needed = sum(sizes.values()) + durable.SPARE_BYTES
        with durable.disk_errors(self.root, needed):
            sweep(self.folder)
            if (free := durable.free_bytes(self.folder)) < needed:
                raise durable.disk_full(self.root, needed, free)
            with staging(self.folder) as place:
                copy = place / "version"
                copy.mkdir()
                digests = {file: durable.copy_with_digest(folder / file, copy / file) for file in sizes}
                check_adapter(copy, manifest)
                complete = {"files": digests, "digest": digest_of(digests), "created_at": manifest.created_at or now()}
                return self._shelve(copy, manifest.model_copy(update=complete), by)

    def _shelve(self, copy: Path, manifest: Manifest, by: str) -> StoredVersion:
        """Gives a checked copy the next version number and renames it into place."""
        with self._changing("publishing", by):
            logged = [entry.version for entry in self.entries() if entry.version]
            version = version_of(next_version_number(self.versions(), logged))
            manifest = manifest.model_copy(update={"version": version})
            durable.write_new(copy / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
            for file in copy.iterdir():
                file.chmod(0o444)
            durable.flush_folder(copy)
            entry = LogEntry(
                at=now(),
                by=by,
                action="publish",
                version=version,
                digest=manifest.digest,
                manifest_sha256=durable.file_digest(copy / MANIFEST),
                aliases=published(self.aliases(), version),
            )
            self._commit(entry, move=(copy, self.folder / version))
        return StoredVersion(self.agent, self.name, version, manifest.digest, self.folder / version, manifest)

    def change(self, doing: str, by: str, decide: Callable[[Moment], LogEntry | None]) -> None:
        with durable.disk_errors(self.root), self._changing(doing, by):
            if entry := decide(self):
                self._commit(entry)

    def remove(self, version: str, by: str, decide: Callable[[Moment], LogEntry]) -> None:
        with durable.disk_errors(self.root), staging(self.folder) as place, self._changing("removing", by):
            self._commit(decide(self), move=(self.folder / version, place / version))

    @contextmanager
    def _changing(self, action: str, by: str) -> Iterator[None]:
        """Holds the shelf's lock, after writing into the log what a killed process could not."""
        with locked(self.folder, action, by, self.lock_timeout_s):
            missed = journal.unrecorded(self.entries(), self.versions(), self.aliases(), now(), by)
            if missed:
                journal.append(self.folder / LOG, missed)
            yield

    def _commit(self, entry: LogEntry, move: tuple[Path, Path] | None = None) -> None:
        """Renames a folder, appends the entry, puts the entry's aliases in force: all of it or none. The lock is held.

        What needs space comes first and is undone without space; the aliases, which everybody reads, come last.
        """
        prepared = durable.prepare(self.folder / ALIASES, entry.aliases.model_dump_json(indent=2).encode() + b"\n")
        moved, log_size = False, None
        try:
            if move:
                move[0].rename(move[1])
                moved = True
            log_size = journal.append(self.folder / LOG, [entry])
            prepared.replace(self.folder / ALIASES)
        except BaseException:
            if log_size is not None:
                journal.cut(self.folder / LOG, log_size)
            if moved and move:
                move[1].rename(move[0])
            prepared.unlink(missing_ok=True)
            raise
        # It is done, and everybody sees it: a disk that cannot promise to keep it must not make it look undone.
        with suppress(OSError):
            durable.flush_folder(self.folder)
