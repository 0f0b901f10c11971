"""One adapter in an object store: `<shelf>/v0001/...` for its versions, `<shelf>/log/` for what is true of them.

A version's number is taken by creating `v0001/.claim`, then come its files, last its manifest; it exists from the moment on at which
the log says so (see `object_log`). Files that no log entry names are of a publisher that died or still works: age tells which.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from onecard.adapters import durable
from onecard.adapters.adapter_cache import AdapterCache
from onecard.adapters.address import Address, is_version, number_of, version_of
from onecard.adapters.aliases import Aliases, next_version_number, published
from onecard.adapters.journal import LogEntry
from onecard.adapters.manifest import Manifest, Verdict
from onecard.adapters.object_log import LogObject, ObjectLog, State, new_id
from onecard.adapters.objects import Objects
from onecard.adapters.place import Moment
from onecard.adapters.remote_version import RemoteVersion, hashed
from onecard.adapters.verification import MANIFEST, check_adapter, digest_of
from onecard.adapters.version import now, read_manifest, read_verdict, resolved
from onecard.errors import AdapterRefused, OnecardError, StoreBusy

CLAIM = ".claim"
ABANDONED_AFTER_S = 24 * 3600.0  # by the store's clock, since the last object of an unfinished version


class RemotePlace:
    """All adapters below a URL. `timeout_s`: how long a change is tried again while others keep changing the same adapter."""

    def __init__(self, objects: Objects, cache: AdapterCache, timeout_s: float) -> None:
        self.objects, self.cache, self.timeout_s = objects, cache, timeout_s
        self._shelves: dict[tuple[str, str], RemoteShelf] = {}

    @property
    def where(self) -> str:
        return self.objects.url

    @property
    def runs_folder(self) -> Path:
        return self.cache.folder.with_name("runs")

    def exists(self) -> bool:
        return bool(self.objects.names(""))

    def shelf(self, agent: str, name: str) -> RemoteShelf:
        """The same one each time, since it remembers the end of its log."""
        fresh = RemoteShelf(self.objects, self.cache, agent, name, self.timeout_s)
        return self._shelves.setdefault((agent, name), fresh)

    def names(self) -> Sequence[tuple[str, str]]:
        names = self.objects.names
        return [(agent, name) for agent in names("agents") for name in names(f"agents/{agent}/adapters")]


class RemoteShelf:
    """All versions of one adapter of one agent."""

    def __init__(self, objects: Objects, cache: AdapterCache, agent: str, name: str, timeout_s: float) -> None:
        self.agent, self.name = agent, name
        self._objects, self._cache, self._timeout_s = objects, cache, timeout_s
        self._folder = f"agents/{agent}/adapters/{name}"
        self._log = ObjectLog(objects, f"{self._folder}/log")

    @property
    def address(self) -> str:
        return str(Address(self.agent, self.name))

    @property
    def where(self) -> str:
        return f"{self._objects.url}/{self._folder}"

    def exists(self) -> bool:
        return self._log.exists()

    def versions(self) -> list[str]:
        return sorted(self._log.state().versions, key=number_of)

    def aliases(self) -> Aliases:
        return self._log.state().aliases

    def entries(self) -> list[LogEntry]:
        return self._log.entries()

    def resolve(self, reference: str) -> str:
        return self._at(self._log.state()).resolve(reference)

    def read(self, version: str) -> RemoteVersion:
        return self._read(version)[0]

    def verdict(self, digest: str) -> Verdict | None:
        key = f"{self._folder}/verdicts/{digest}.json"
        return read_verdict(self._objects.read(key), f"{self._objects.url}/{key}", digest)

    def keep_verdict(self, verdict: Verdict, by: str) -> None:
        content = verdict.model_dump_json(indent=2).encode() + b"\n"
        self._objects.put(f"{self._folder}/verdicts/{verdict.digest}.json", content)

    def differences(self, version: str) -> list[str]:
        try:
            stored, manifest_sha256 = self._read(version)
        except AdapterRefused as error:
            return [f"{MANIFEST}: {error.problem}"]
        there = stored.objects()
        found = [f"{name}: not in the manifest" for name in sorted(set(there) - {MANIFEST, *stored.manifest.files})]
        for name, expected in sorted(stored.manifest.files.items()):
            if name not in there:
                found.append(f"{name}: missing")
            elif (actual := hashed(self._objects, there[name])) != expected:
                found.append(f"{name}: sha256 is {actual[:12]}, expected {expected[:12]}")
        if manifest_sha256 != stored.manifest_sha256:
            found.append(f"{MANIFEST}: not the file that was published, by the sha256 in the log")
        return found

    def _read(self, version: str) -> tuple[RemoteVersion, str]:
        """A version, and the sha256 that its manifest has now."""
        key = f"{self._folder}/{version}/{MANIFEST}"
        content = self._objects.read(key)
        manifest = read_manifest(content, f"{self._objects.url}/{key}", self.agent, self.name, version)
        return self._stored(manifest, self._log.manifest_sha256(version)), sha256(content or b"").hexdigest()

    def _at(self, state: State) -> _Moment:
        return _Moment(state, self.address, self.where)

    def publish(self, folder: Path, sizes: Mapping[str, int], manifest: Manifest, by: str) -> RemoteVersion:
        with self._cache.filling(sum(sizes.values())) as copy:
            digests = {file: durable.copy_with_digest(folder / file, copy / file) for file in sizes}
            check_adapter(copy, manifest)
            version, offered = self._claim(by), False
            try:
                self._sweep(version, by)
                complete = {"files": digests, "digest": digest_of(digests), "created_at": manifest.created_at or now()}
                manifest = manifest.model_copy(update={**complete, "version": version})
                durable.write_new(copy / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
                manifest_sha256 = durable.file_digest(copy / MANIFEST)
                for file in (*digests, MANIFEST):
                    self._objects.upload(copy / file, f"{self._folder}/{version}/{file}")
                offered = True
                self._append("publishing", lambda state: self._published(state, manifest, manifest_sha256, by))
            except BaseException:
                self._take_back(version, digests, by, offered)
                raise
            stored = self._stored(manifest, manifest_sha256)
            with suppress(OnecardError):
                self._objects.delete([f"{self._folder}/{version}/{CLAIM}"])
            with suppress(OSError):  # published it is; whoever needs the copy can fetch it
                self._cache.keep(copy, self._cache.place_of(manifest.digest, manifest_sha256))
        return stored

    def change(self, doing: str, by: str, decide: Callable[[Moment], LogEntry | None]) -> None:
        def next_of(state: State) -> LogObject | None:
            entry = decide(self._at(state))
            return None if entry is None else _after(state, entry)

        self._append(doing, next_of)

    def remove(self, version: str, by: str, decide: Callable[[Moment], LogEntry]) -> None:
        self._append("removing", lambda state: _after(state, decide(self._at(state)), ends=(version,)))
        self._delete_version(version)

    def _append(self, doing: str, next_of: Callable[[State], LogObject | None]) -> None:
        """Adds what `next_of` makes of the last state, again on each newer one until nobody else was faster; StoreBusy in the end."""
        started, tries = time.monotonic(), 0
        while True:
            state = self._log.state()
            content = next_of(state)
            if content is None or self._log.append(state, content):
                return
            tries += 1
            if time.monotonic() - started > self._timeout_s:
                raise StoreBusy(
                    f"others changed {self.address} {tries} times while {doing}",
                    where=self.where,
                    next_step=f"try again when they have finished (tried for {self._timeout_s:g} s)",
                )
            time.sleep(random.uniform(0, min(0.5, 0.01 * 2 ** min(tries, 6))))

    def _published(self, state: State, manifest: Manifest, manifest_sha256: str, by: str) -> LogObject:
        version = manifest.version
        if version in state.ended:
            raise StoreBusy(
                f"publishing {self.address}@{version} took so long that it was taken for dead and swept away",
                where=self.where,
                next_step="publish it again",
            )
        entry = LogEntry(
            at=now(),
            by=by,
            action="publish",
            version=version,
            digest=manifest.digest,
            manifest_sha256=manifest_sha256,
            aliases=published(state.aliases, version),
        )
        return _after(state, entry, adds={version: manifest_sha256})

    def _claim(self, by: str) -> str:
        """The next number that nobody ever had, taken by creating an object that only one can create."""
        content = f"{new_id()}: {by}, process {os.getpid()} on {socket.gethostname()}, {now()}\n".encode()
        state = self._log.state()
        taken = [name for name in self._objects.names(self._folder) if is_version(name)]
        number = next_version_number([*state.versions, *taken], state.ended)
        while True:
            key = f"{self._folder}/{version_of(number)}/{CLAIM}"
            try:
                if self._objects.create(key, content) or self._objects.read(key) == content:
                    return version_of(number)
            except BaseException:
                with suppress(OnecardError):  # only the answer may have been lost
                    if self._objects.read(key) == content:
                        self._objects.delete([key])
                raise
            number += 1

    def _sweep(self, own: str, by: str) -> None:
        """Removes what dead publishers left. All ages are by the store's clock: the time of our own claim there is now."""
        state = self._log.state()
        others = [name for name in self._objects.names(self._folder) if is_version(name) and name != own]
        left = [version for version in others if version not in state.versions]
        at = self._last_change(own) if left else None
        for version in left:
            changed = self._last_change(version)
            abandoned = at is not None and changed is not None and at - changed > ABANDONED_AFTER_S
            if version in state.ended or abandoned:
                with suppress(OnecardError):
                    self._end(version, by)

    def _last_change(self, version: str) -> float | None:
        """When the newest object of a version was written, in seconds since 1970 by the store's clock."""
        times = [found.modified_s for found in self._objects.below(f"{self._folder}/{version}")]
        return max((at for at in times if at is not None), default=None)

    def _end(self, version: str, by: str) -> None:
        """Says in the log that a version will never be finished, so that its publisher cannot finish it any more, and deletes it."""

        def next_of(state: State) -> LogObject | None:
            if version in state.ended or version in state.versions:
                return None
            reason = "never finished"
            entry = LogEntry(at=now(), by=by, action="vanished", version=version, reason=reason, aliases=state.aliases)
            return _after(state, entry, ends=(version,))

        self._append("sweeping", next_of)
        if version in self._log.state().ended:
            self._delete_version(version)

    def _take_back(self, version: str, files: Iterable[str], by: str, offered: bool) -> None:
        """Deletes what a failed publish uploaded. Once its entry was offered to the log, an entry that it will never be comes first:

        an answer can be lost on the way and the offer arrive late; behind that entry it arrives too late.
        """
        with suppress(OnecardError):
            if offered:
                self._end(version, by)
            else:
                self._objects.delete([f"{self._folder}/{version}/{name}" for name in (MANIFEST, *files, CLAIM)])

    def _delete_version(self, version: str) -> None:
        """Deletes the objects of a version that ended; what stays after an error is swept by the next publish."""
        with suppress(OnecardError):
            keys = [found.key for found in self._objects.below(f"{self._folder}/{version}")]
            self._objects.delete(sorted(keys, key=lambda key: not key.endswith(MANIFEST)))

    def _stored(self, manifest: Manifest, manifest_sha256: str) -> RemoteVersion:
        return RemoteVersion(
            manifest, manifest_sha256, self._objects, f"{self._folder}/{manifest.version}", self._cache
        )


@dataclass(frozen=True)
class _Moment:
    """The adapter after one entry of its log."""

    state: State
    address: str
    where: str

    def aliases(self) -> Aliases:
        return self.state.aliases

    def resolve(self, reference: str) -> str:
        versions = sorted(self.state.versions, key=number_of)
        return resolved(reference, lambda: versions, self.aliases, self.address, self.where)


def _after(state: State, entry: LogEntry, adds: Mapping[str, str] | None = None, ends: Sequence[str] = ()) -> LogObject:
    """The log object that makes `entry` true after `state`."""
    versions = {
        version: digest for version, digest in {**state.versions, **(adds or {})}.items() if version not in ends
    }
    ended = (*state.ended, *(version for version in ends if version not in state.ended))
    return LogObject(id=new_id(), entry=entry, versions=versions, ended=ended)
