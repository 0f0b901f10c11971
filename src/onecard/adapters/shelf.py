"""One adapter's folder in the store: what stands there, and the one way in which it changes.

Readers take no lock: versions are immutable and appear by one rename, aliases.json is replaced by one rename. Every change goes
through `commit`, whose steps can all be taken back without needing free space.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from onecard.adapters import durable, journal
from onecard.adapters.address import ALIAS_NAMES, Address, is_version, number_of
from onecard.adapters.aliases import Aliases
from onecard.adapters.journal import LogEntry
from onecard.adapters.lock import locked
from onecard.adapters.manifest import Manifest, Verdict
from onecard.adapters.verification import MANIFEST, digest_of
from onecard.errors import AdapterRefused, InputError, UnknownName, nearest

ALIASES, LOG, VERDICTS = "aliases.json", "log.jsonl", "verdicts"


@dataclass(frozen=True)
class StoredVersion:
    """One immutable version: its folder holds the PEFT files and manifest.json."""

    agent: str
    name: str
    version: str
    digest: str
    folder: Path
    manifest: Manifest

    @property
    def address(self) -> str:
        """agent/name@version"""
        return str(Address(self.agent, self.name, self.version))


@dataclass(frozen=True)
class Shelf:
    """All versions of one adapter of one agent."""

    folder: Path
    agent: str
    name: str
    lock_timeout_s: float

    @property
    def address(self) -> str:
        return str(Address(self.agent, self.name))

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
        """The version that a version or alias means; UnknownName says what there is."""
        versions = self.versions()
        if not versions:
            raise UnknownName(f"{self.address} has no versions", where=str(self.folder))
        if reference in versions:
            return reference
        aliases = {alias: self.aliases().get(alias) for alias in ALIAS_NAMES}
        version = aliases.get(reference)
        if version in versions:
            return version
        there = ", ".join([*(f"{alias} ({v})" for alias, v in aliases.items() if v in versions), *versions[-8:]])
        why = f": it points at {version}, which is gone" if version else nearest(reference, versions)
        raise UnknownName(f"{self.address} has no '{reference}'{why}", where=str(self.folder), allowed=there)

    def read(self, version: str) -> StoredVersion:
        """A version with its manifest, which must agree with the place it stands in; AdapterRefused otherwise."""
        folder = self.folder / version
        manifest = self._manifest(folder / MANIFEST)
        for what, value, expected in (
            ("agent", manifest.agent, self.agent),
            ("name", manifest.name, self.name),
            ("version", manifest.version, version),
            ("digest", manifest.digest, digest_of(manifest.files)),
        ):
            if value != expected:
                raise AdapterRefused(
                    f"the manifest's {what} is {value!r}, expected {expected!r}", where=str(folder / MANIFEST)
                )
        return StoredVersion(self.agent, self.name, version, manifest.digest, folder, manifest)

    def _manifest(self, file: Path) -> Manifest:
        content = durable.read_bytes(file)
        if content is None:
            raise AdapterRefused("no manifest", where=str(file), next_step="publish the adapter again")
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(key) for key in fault["loc"])
            raise AdapterRefused(
                f"corrupt manifest ({place + ': ' if place else ''}{fault['msg']})",
                where=str(file),
                next_step="publish the adapter again, or put the file back from a copy",
            ) from None

    def verdict(self, digest: str) -> Verdict | None:
        """The verdict recorded for a digest; InputError when its file is corrupt."""
        file = self.folder / VERDICTS / f"{digest}.json"
        content = durable.read_bytes(file)
        if content is None:
            return None
        try:
            verdict = Verdict.model_validate_json(content)
        except ValidationError as error:
            raise InputError(
                f"corrupt verdict ({error.errors()[0]['msg']})", where=str(file), next_step="evaluate the version again"
            ) from None
        if verdict.digest != digest:
            raise InputError(f"this verdict is of {verdict.digest[:12]}", where=str(file), next_step="evaluate again")
        return verdict

    @contextmanager
    def changing(self, action: str, by: str) -> Iterator[None]:
        """Holds the shelf's lock, after writing into the log what a killed process could not."""
        with locked(self.folder, action, by, self.lock_timeout_s):
            missed = journal.unrecorded(self.entries(), self.versions(), self.aliases(), now(), by)
            if missed:
                journal.append(self.folder / LOG, missed)
            yield

    def commit(self, entry: LogEntry, move: tuple[Path, Path] | None = None) -> None:
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


def now() -> str:
    """UTC in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
