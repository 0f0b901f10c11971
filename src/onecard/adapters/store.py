"""The adapter store: `<root>/agents/<agent>/adapters/<name>/v0001/...`, as INTERFACE lays it out, in a local folder.

Versions are immutable and content-addressed; a reader never sees half of one. A version reaches production only with a passing
verdict bound to its digest, or by force with a reason in the log. Rolling back restores the state before the last promotion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onecard.adapters import durable
from onecard.adapters.address import checked_name, checked_reference, is_version, parse_reference, version_of
from onecard.adapters.aliases import Aliases, next_version_number, promoted, published, rolled_back, without
from onecard.adapters.journal import Action, LogEntry
from onecard.adapters.lock import current_user
from onecard.adapters.manifest import Manifest, Verdict
from onecard.adapters.promotion import bound, check_gate
from onecard.adapters.shelf import LOG, VERDICTS, Shelf, StoredVersion, now
from onecard.adapters.staging import staging, sweep
from onecard.adapters.verification import MANIFEST, check_adapter, check_files, differences, digest_of
from onecard.errors import AdapterRefused, InputError, OnecardError, StoreBusy, UnknownName, nearest

__all__ = ["AdapterListing", "LogEntry", "Store", "StoredVersion"]

LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class AdapterListing:
    """One adapter in a list. `problem` says why aliases or versions could not be read, if they could not."""

    agent: str
    name: str
    versions: tuple[str, ...]
    aliases: Aliases
    problem: str | None = None


class Store:
    """Adapters of all agents under one folder. Safe for several processes; safe against kills and full disks."""

    def __init__(self, root: Path | str, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(root)):
            raise InputError(
                f"stores at {scheme[1]}: URLs are not supported",
                where=str(root),
                allowed="a local folder, such as ./modelstore",
            )
        try:
            self.root = Path(root).expanduser()
        except RuntimeError as error:
            raise InputError(str(error), where=str(root), allowed="a local folder, such as ./modelstore") from None
        self.lock_timeout_s = lock_timeout_s

    def publish(self, agent: str, name: str, folder: Path, manifest: Manifest, by: str | None = None) -> StoredVersion:
        """Checks and copies an adapter folder as the next version, which becomes the candidate.

        Raises AdapterRefused (the files are not what the manifest says), DiskFull, StoreBusy; the store is then as it was.
        """
        shelf, by = self._shelf(agent, name), by or current_user()
        if (manifest.agent, manifest.name) != (agent, name):
            raise InputError(f"the manifest is of {manifest.agent}/{manifest.name}, not of {agent}/{name}")
        if not folder.is_dir():
            raise InputError("no such folder", where=str(folder))
        sizes = {file: size for file, size in check_files(folder).items() if file != MANIFEST}
        needed = sum(sizes.values()) + durable.SPARE_BYTES
        with durable.disk_errors(self.root, needed):
            sweep(shelf.folder)
            if (free := durable.free_bytes(shelf.folder)) < needed:
                raise durable.disk_full(self.root, needed, free)
            with staging(shelf.folder) as place:
                copy = place / "version"
                copy.mkdir()
                digests = {file: durable.copy_with_digest(folder / file, copy / file) for file in sizes}
                check_adapter(copy, manifest)
                complete = {"files": digests, "digest": digest_of(digests), "created_at": manifest.created_at or now()}
                return self._shelve(shelf, copy, manifest.model_copy(update=complete), by)

    def _shelve(self, shelf: Shelf, copy: Path, manifest: Manifest, by: str) -> StoredVersion:
        """Gives a checked copy the next version number and renames it into place."""
        with shelf.changing("publishing", by):
            logged = [entry.version for entry in shelf.entries() if entry.version]
            version = version_of(next_version_number(shelf.versions(), logged))
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
                aliases=published(shelf.aliases(), version),
            )
            shelf.commit(entry, move=(copy, shelf.folder / version))
        return StoredVersion(shelf.agent, shelf.name, version, manifest.digest, shelf.folder / version, manifest)

    def resolve(self, agent: str, reference: str) -> StoredVersion:
        """The version that `name@v0001` or `name@production` means; UnknownName with the nearest known name otherwise."""
        name, version_or_alias = parse_reference(reference)
        shelf = self._known(agent, name)
        return shelf.read(shelf.resolve(version_or_alias))

    def versions(self, agent: str, name: str) -> list[StoredVersion]:
        """Every version of an adapter, oldest first."""
        shelf = self._known(agent, name)
        return [shelf.read(version) for version in shelf.versions()]

    def aliases(self, agent: str, name: str) -> Aliases:
        return self._known(agent, name).aliases()

    def promote(
        self,
        agent: str,
        name: str,
        version_or_alias: str = "candidate",
        by: str | None = None,
        reason: str | None = None,
        verdict: Verdict | None = None,
        force: bool = False,
    ) -> StoredVersion:
        """Puts a version into production; the old production becomes previous. GateFailed without a passing verdict.

        `verdict` is recorded first; without it the one recorded for the digest counts. `force` needs a reason. A version whose
        files changed since it was published is AdapterRefused, an alias that moves meanwhile StoreBusy.
        """
        shelf, by = self._known(agent, name), by or current_user()
        stored = shelf.read(shelf.resolve(checked_reference(version_or_alias)))
        if verdict is not None:
            verdict = self.record_verdict(agent, name, stored.version, verdict)
        check_gate(stored.address, verdict or shelf.verdict(stored.digest), force, reason)
        self._check_unchanged(stored)
        with durable.disk_errors(self.root), shelf.changing("promoting", by):
            if shelf.resolve(version_or_alias) != stored.version:
                raise StoreBusy(
                    f"{version_or_alias} of {shelf.address} moved while {stored.version} was promoted",
                    next_step="try again",
                )
            before = shelf.aliases()
            after = promoted(before, stored.version)
            if after != before:
                shelf.commit(_moved("promote", stored, by, after, reason, forced=force))
        return stored

    def rollback(self, agent: str, name: str, by: str | None = None, reason: str | None = None) -> StoredVersion:
        """Takes back the last promotion and returns what is in production now; Refusal when there is nothing before it."""
        shelf, by = self._known(agent, name), by or current_user()
        with durable.disk_errors(self.root), shelf.changing("rolling back", by):
            after = rolled_back(shelf.aliases())
            stored = shelf.read(shelf.resolve("previous"))
            self._check_unchanged(stored)
            shelf.commit(_moved("rollback", stored, by, after, reason))
        return stored

    def remove(self, agent: str, name: str, version: str, by: str | None = None, reason: str | None = None) -> None:
        """Deletes one version for good; Refusal while an alias points at it. Its number is never used again."""
        shelf, by = self._known(agent, name), by or current_user()
        _only_version(version)
        with (
            durable.disk_errors(self.root),
            staging(shelf.folder) as place,
            shelf.changing("removing", by),
        ):
            shelf.resolve(version)
            after = without(shelf.aliases(), version)
            entry = LogEntry(at=now(), by=by, action="remove", version=version, reason=reason, aliases=after)
            shelf.commit(entry, move=(shelf.folder / version, place / version))

    def record_verdict(self, agent: str, name: str, version: str, verdict: Verdict) -> Verdict:
        """Keeps a gate verdict beside the versions, bound to the version's digest; returns it with that digest."""
        shelf = self._known(agent, name)
        _only_version(version)
        stored = shelf.read(shelf.resolve(version))
        verdict = bound(verdict, stored.digest, stored.address)
        with durable.disk_errors(self.root), shelf.changing("recording a verdict", current_user()):
            (shelf.folder / VERDICTS).mkdir(exist_ok=True)
            file = shelf.folder / VERDICTS / f"{stored.digest}.json"
            durable.replace(file, verdict.model_dump_json(indent=2).encode() + b"\n")
        return verdict

    def verdict(self, stored: StoredVersion) -> Verdict | None:
        """The verdict recorded for a version's digest."""
        return self._shelf(stored.agent, stored.name).verdict(stored.digest)

    def verify(self, agent: str, name: str, version: str) -> list[str]:
        """Hashes every file of a version again and returns what differs from the time of publishing; empty when nothing does."""
        shelf = self._known(agent, name)
        version = shelf.resolve(checked_reference(version))
        try:
            stored = shelf.read(version)
        except AdapterRefused as error:
            return [f"{MANIFEST}: {error.problem}"]
        with durable.disk_errors(stored.folder):
            found = differences(stored.folder, stored.manifest)
        logged = {e.version: e.manifest_sha256 for e in shelf.entries() if e.action == "publish" and e.manifest_sha256}
        if version in logged and logged[version] != durable.file_digest(stored.folder / MANIFEST):
            found.append(f"{MANIFEST}: not the file that was published, by the sha256 in {LOG}")
        return found

    def log(self, agent: str, name: str) -> list[LogEntry]:
        """Who did what when, oldest first."""
        return self._known(agent, name).entries()

    def list(self) -> list[AdapterListing]:
        """Every adapter of every agent, by name. One that cannot be read is listed with its problem."""
        return [self._listing(shelf) for shelf in self._shelves()]

    def _check_unchanged(self, stored: StoredVersion) -> None:
        if found := self.verify(stored.agent, stored.name, stored.version):
            raise AdapterRefused(
                f"{stored.address} is not what was published: {'; '.join(found)}",
                where=str(stored.folder),
                next_step="publish it again from where it was trained",
            )

    def _shelf(self, agent: str, name: str) -> Shelf:
        checked_name("agent", agent)
        checked_name("adapter", name)
        return Shelf(self.root / "agents" / agent / "adapters" / name, agent, name, self.lock_timeout_s)

    def _known(self, agent: str, name: str) -> Shelf:
        """The shelf of an adapter that has versions or a log; UnknownName with the nearest known one otherwise."""
        shelf = self._shelf(agent, name)
        if shelf.versions() or (shelf.folder / LOG).exists():
            return shelf
        known = [other.address for other in self._shelves()]
        raise UnknownName(
            f"no adapter {shelf.address}{nearest(shelf.address, known)}",
            where=str(self.root),
            allowed=", ".join(known) or "nothing yet, this store is empty",
        )

    def _shelves(self) -> Sequence[Shelf]:
        found = []
        for folder in sorted(self.root.glob("agents/*/adapters/*")):
            try:
                shelf = self._shelf(folder.parts[-3], folder.name)
            except InputError:
                continue
            if shelf.versions() or (shelf.folder / LOG).exists():
                found.append(shelf)
        return found

    def _listing(self, shelf: Shelf) -> AdapterListing:
        versions = tuple(shelf.versions())
        try:
            return AdapterListing(shelf.agent, shelf.name, versions, shelf.aliases())
        except OnecardError as error:
            return AdapterListing(shelf.agent, shelf.name, versions, Aliases(), str(error))


def _moved(
    action: Action, stored: StoredVersion, by: str, aliases: Aliases, reason: str | None, forced: bool = False
) -> LogEntry:
    """The log entry of a change of production to `stored`."""
    return LogEntry(
        at=now(), by=by, action=action, version=stored.version, digest=stored.digest,
        reason=reason, forced=forced, aliases=aliases,
    )  # fmt: skip


def _only_version(text: str) -> None:
    if not is_version(text):
        raise InputError(f"{text!r} is not a version", allowed="a version such as v0003; aliases may move meanwhile")
