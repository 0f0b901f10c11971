"""The adapter store: `<store>/agents/<agent>/adapters/<name>/v0001/...`, as INTERFACE lays it out, in a local folder or at a URL.

Versions are immutable and content-addressed; a reader never sees half of one. A version reaches production only with a passing
verdict bound to its digest, or by force with a reason in the log. Rolling back restores the state before the last promotion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onecard.adapters.address import checked_name, checked_reference, is_version, parse_reference
from onecard.adapters.aliases import Aliases, promoted, rolled_back, without
from onecard.adapters.journal import Action, LogEntry
from onecard.adapters.lock import current_user
from onecard.adapters.manifest import Manifest, Verdict
from onecard.adapters.place import AdapterShelf, Moment, Place
from onecard.adapters.promotion import bound, check_gate, compared
from onecard.adapters.shelf import LocalPlace
from onecard.adapters.verification import MANIFEST, check_files
from onecard.adapters.version import StoredVersion, now
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
    """Adapters of all agents in one place. Safe for several processes; safe against kills and full disks.

    `where` is a folder or a URL such as s3://bucket/prefix (which ones: `fsspec_objects`; credentials come from the environment).
    Versions at a URL are copied into `cache` (default ~/.cache/onecard/adapters) when their files are used.
    """

    def __init__(self, where: Path | str, lock_timeout_s: float = LOCK_TIMEOUT_S, cache: Path | None = None) -> None:
        self.lock_timeout_s = lock_timeout_s
        self._place = _place_of(str(where), lock_timeout_s, cache)

    @property
    def where(self) -> str:
        """The folder or the URL, for messages."""
        return self._place.where

    @property
    def at_url(self) -> bool:
        """Whether it is at a URL and not in a local folder."""
        return not isinstance(self._place, LocalPlace)

    @property
    def root(self) -> Path:
        """The folder of a local store; InputError for one at a URL."""
        if isinstance(self._place, LocalPlace):
            return self._place.root
        raise InputError("a store at a URL has no folder", where=self.where, allowed="a local folder")

    @property
    def runs_folder(self) -> Path:
        """The local folder where runs that will publish here keep their files: beside a local store, else in the cache."""
        return self._place.runs_folder

    def exists(self) -> bool:
        """True when there is anything at this place."""
        return self._place.exists()

    def publish(self, agent: str, name: str, folder: Path, manifest: Manifest, by: str | None = None) -> StoredVersion:
        """Checks and copies an adapter folder as the next version, which becomes the candidate.

        Raises AdapterRefused (the files are not what the manifest says), DiskFull, StoreBusy; the store is then as it was.
        """
        shelf = self._shelf(agent, name)
        if (manifest.agent, manifest.name) != (agent, name):
            raise InputError(f"the manifest is of {manifest.agent}/{manifest.name}, not of {agent}/{name}")
        if not folder.is_dir():
            raise InputError("no such folder", where=str(folder))
        sizes = {file: size for file, size in check_files(folder).items() if file != MANIFEST}
        return shelf.publish(folder, sizes, manifest, by or current_user())

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
        """Puts a version into production; the old production becomes previous. GateFailed without a passing verdict, or with one
        that compared it with another production than there is now, also if that changes in this very moment.

        `verdict` is recorded first; without it the one recorded for the digest counts. `force` needs a reason. A version whose
        files changed since it was published is AdapterRefused, an alias that moves meanwhile StoreBusy.
        """
        shelf, by = self._known(agent, name), by or current_user()
        stored = shelf.read(shelf.resolve(checked_reference(version_or_alias)))
        if verdict is not None:
            verdict = self.record_verdict(agent, name, stored.version, verdict)
        verdict = verdict or shelf.verdict(stored.digest)

        def pass_gate(at: Moment) -> None:
            check_gate(stored.address, verdict, force, reason, _production(shelf, at, verdict, force))

        pass_gate(shelf)
        _check_unchanged(shelf, stored)

        def decide(at: Moment) -> LogEntry | None:
            if at.resolve(version_or_alias) != stored.version:
                raise StoreBusy(
                    f"{version_or_alias} of {shelf.address} moved while {stored.version} was promoted",
                    next_step="try again",
                )
            pass_gate(at)
            before = at.aliases()
            after = promoted(before, stored.version)
            return None if after == before else _moved("promote", stored, by, after, reason, forced=force)

        shelf.change("promoting", by, decide)
        return stored

    def rollback(self, agent: str, name: str, by: str | None = None, reason: str | None = None) -> StoredVersion:
        """Takes back the last promotion and returns what is in production now; Refusal when there is nothing before it."""
        shelf, by = self._known(agent, name), by or current_user()
        back: list[StoredVersion] = []

        def decide(at: Moment) -> LogEntry:
            after = rolled_back(at.aliases())
            stored = shelf.read(at.resolve("previous"))
            _check_unchanged(shelf, stored)
            back.append(stored)
            return _moved("rollback", stored, by, after, reason)

        shelf.change("rolling back", by, decide)
        return back[-1]

    def remove(self, agent: str, name: str, version: str, by: str | None = None, reason: str | None = None) -> None:
        """Deletes one version for good; Refusal while an alias points at it. Its number is never used again."""
        shelf, by = self._known(agent, name), by or current_user()
        _only_version(version)

        def decide(at: Moment) -> LogEntry:
            at.resolve(version)
            after = without(at.aliases(), version)
            return LogEntry(at=now(), by=by, action="remove", version=version, reason=reason, aliases=after)

        shelf.remove(version, by, decide)

    def record_verdict(self, agent: str, name: str, version: str, verdict: Verdict) -> Verdict:
        """Keeps a gate verdict beside the versions, bound to the version's digest; returns it with that digest."""
        shelf = self._known(agent, name)
        _only_version(version)
        stored = shelf.read(shelf.resolve(version))
        verdict = bound(verdict, stored.digest, stored.address)
        shelf.keep_verdict(verdict, current_user())
        return verdict

    def verdict(self, stored: StoredVersion) -> Verdict | None:
        """The verdict recorded for a version's digest."""
        return self._shelf(stored.agent, stored.name).verdict(stored.digest)

    def verify(self, agent: str, name: str, version: str) -> list[str]:
        """Hashes every file of a version again and returns what differs from the time of publishing; empty when nothing does."""
        shelf = self._known(agent, name)
        return shelf.differences(shelf.resolve(checked_reference(version)))

    def log(self, agent: str, name: str) -> list[LogEntry]:
        """Who did what when, oldest first."""
        return self._known(agent, name).entries()

    def list(self) -> list[AdapterListing]:
        """Every adapter of every agent, by name. One that cannot be read is listed with its problem."""
        return [self._listing(shelf) for shelf in self._shelves()]

    def _shelf(self, agent: str, name: str) -> AdapterShelf:
        return self._place.shelf(checked_name("agent", agent), checked_name("adapter", name))

    def _known(self, agent: str, name: str) -> AdapterShelf:
        """The shelf of an adapter that has versions or a log; UnknownName with the nearest known one otherwise."""
        shelf = self._shelf(agent, name)
        if shelf.exists():
            return shelf
        known = [other.address for other in self._shelves()]
        raise UnknownName(
            f"no adapter {shelf.address}{nearest(shelf.address, known)}",
            where=self.where,
            allowed=", ".join(known) or "nothing yet, this store is empty",
        )

    def _shelves(self) -> Sequence[AdapterShelf]:
        found = []
        for agent, name in self._place.names():
            try:
                shelf = self._shelf(agent, name)
            except InputError:
                continue
            if shelf.exists():
                found.append(shelf)
        return found

    def _listing(self, shelf: AdapterShelf) -> AdapterListing:
        versions = tuple(shelf.versions())
        try:
            return AdapterListing(shelf.agent, shelf.name, versions, shelf.aliases())
        except OnecardError as error:
            return AdapterListing(shelf.agent, shelf.name, versions, Aliases(), str(error))


def _place_of(where: str, timeout_s: float, cache: Path | None) -> Place:
    """The folder or the URL; InputError for what is neither."""
    if where.startswith("file://"):
        where = where.removeprefix("file://")
    if "://" in where:
        from onecard.adapters.adapter_cache import AdapterCache, default_cache
        from onecard.adapters.fsspec_objects import FsspecObjects
        from onecard.adapters.remote_shelf import RemotePlace

        return RemotePlace(FsspecObjects(where), AdapterCache(cache or default_cache() / "adapters"), timeout_s)
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", where):
        raise InputError(
            f"{scheme[1]}: with one slash is neither a folder nor a URL",
            where=where,
            allowed=f"a local folder, or a URL such as {scheme[1]}://bucket/prefix, as text and not as a path",
        )
    try:
        return LocalPlace(Path(where).expanduser(), timeout_s)
    except RuntimeError as error:
        raise InputError(
            str(error), where=where, allowed="a local folder such as ./modelstore, or a URL such as s3://bucket/prefix"
        ) from None


def _check_unchanged(shelf: AdapterShelf, stored: StoredVersion) -> None:
    if found := shelf.differences(stored.version):
        raise AdapterRefused(
            f"{stored.address} is not what was published: {'; '.join(found)}",
            where=stored.where,
            next_step="publish it again from where it was trained",
        )


def _production(shelf: AdapterShelf, at: Moment, verdict: Verdict | None, force: bool) -> str | None:
    """The digest in production, read only where the gate needs it; AdapterRefused when it cannot be read, which force goes past."""
    version = None if force or verdict is None or not compared(verdict) else at.aliases().production
    return shelf.read(version).digest if version else None


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
