"""Which adapter versions are in memory while the service runs: loaded, promoted, rolled back, unloaded, without stopping anybody.

A version is verified by the engine before anything changes, so a bad one leaves everything as it was. New requests find the new version at
once; those accepted before finish on theirs, and only then its memory is freed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from onecard.adapters.store import Store, StoredVersion
from onecard.engines.engine import Engine
from onecard.errors import InputError, OnecardError, Refusal, UnknownName, nearest
from onecard.fleet.loader import LoadedFleet
from onecard.fleet.schema import AgentSpec
from onecard.serving.answerers import Answerer, Directory
from onecard.serving.service import Service
from onecard.wire.admin import AdapterRow

DRAIN_POLL_S = 0.02
Load = Callable[[str, AgentSpec, Engine, StoredVersion], Answerer]


@dataclass(frozen=True)
class Change:
    """What one change came to. `before` and `now` are name@version; `leaving` are digests to be freed when their requests are over."""

    agent: str
    before: str | None
    now: str | None
    digest: str | None
    leaving: tuple[str, ...] = ()


class Residency:
    """Changes who answers in a running service. One change at a time; safe from any thread but the event loop's, which it would hold up."""

    def __init__(self, service: Service, loaded: LoadedFleet, load: Load) -> None:
        self._service = service
        self._loaded = loaded
        self._load = load
        self._store = Store(loaded.store_url)
        self._changing = threading.RLock()
        self._leaving: set[str] = set()

    @property
    def leaving(self) -> frozenset[str]:
        """Digests that no new request finds and whose memory is not free yet."""
        return frozenset(self._leaving)

    def rows(self) -> list[AdapterRow]:
        """Every version in the store of every agent that has an adapter, and what it is doing here."""
        memory = self._service.health().memory
        held = {part.name: part.bytes for part in memory.parts}
        directory, found = self._service.directory, []
        for agent, spec in self._loaded.fleet.agents.items():
            if spec.adapter_name is None:
                continue
            aliases = self._store.aliases(agent, spec.adapter_name)
            for stored in self._store.versions(agent, spec.adapter_name):
                serving = {one.digest for one in directory.agents if one.agent == agent}
                extra = {one.digest for one in directory.beside if one.agent == agent}
                residency = (
                    "answers"
                    if stored.digest in serving
                    else "beside"
                    if stored.digest in extra
                    else "leaving"
                    if stored.digest in self._leaving
                    else "stored"
                )
                size = held.get(f"adapter {stored.digest[:12]}", 0)
                found.append(
                    AdapterRow(
                        agent=agent,
                        adapter=f"{stored.name}@{stored.version}",
                        digest=stored.digest,
                        aliases=tuple(aliases.of(stored.version)),
                        residency=residency,
                        bytes=size,
                        requests=self._service.uses(stored.digest),
                    )
                )
        return found

    def promote(
        self, agent: str, version: str = "candidate", *, reason: str | None = None, force: bool = False
    ) -> Change:
        """Puts a version into production, in the store and here. GateFailed without a passing verdict, AdapterRefused for a bad one."""
        with self._changing:
            name = self._name_following_production(agent)
            stored = self._store.resolve(agent, f"{name}@{version}")
            answerer, fresh = self._loaded_one(agent, stored)
            try:
                self._store.promote(agent, name, stored.version, reason=reason, force=force)
            except BaseException:
                if fresh:
                    self._free_when_unused(answerer)
                raise
            return self._install(answerer)

    def rollback(self, agent: str, *, reason: str | None = None) -> Change:
        """Takes back the last promotion, in the store and here. Refusal when there is nothing before it."""
        with self._changing:
            name = self._name_following_production(agent)
            previous = self._store.aliases(agent, name).previous
            if previous is None:
                raise Refusal(f"nothing was in production before the version that is, of {agent}/{name}", where="agent")
            # It must answer here before the store says that it does.
            answerer, fresh = self._loaded_one(agent, self._store.resolve(agent, f"{name}@{previous}"))
            try:
                stored = self._store.rollback(agent, name, reason=reason)
            except BaseException:
                if fresh:
                    self._free_when_unused(answerer)
                raise
            if stored.digest != answerer.digest:  # somebody promoted in between
                answerer, _ = self._loaded_one(agent, stored)
            return self._install(answerer)

    def load(self, agent: str, version: str) -> Change:
        """Loads a version beside the one that answers: it is asked as agent@version."""
        with self._changing:
            name = self._adapter_name(agent)
            answerer, _ = self._loaded_one(agent, self._store.resolve(agent, f"{name}@{version}"))
            directory = self._service.directory
            if answerer.name not in directory.names:
                self._service.exchange(Directory(directory.agents, directory.base, (*directory.beside, answerer)))
            return Change(agent, self._current(agent).adapter, answerer.adapter, answerer.digest)

    def unload(self, agent: str, version: str) -> Change:
        """Takes a version that was loaded beside out again. Refusal for the one that answers for the agent."""
        with self._changing:
            current = self._current(agent)
            exact = f"{agent}@{version}"
            if current.name == exact:
                raise Refusal(
                    f"{exact} answers for {agent}",
                    where=exact,
                    next_step="promote or roll back to another version first",
                )
            directory = self._service.directory
            gone = [one for one in directory.beside if one.name == exact]
            if not gone:
                raise UnknownName(
                    f"{exact} is not loaded",
                    where="version",
                    allowed=", ".join(one.name for one in directory.beside if one.agent == agent)
                    or "none is beside it",
                )
            kept = tuple(one for one in directory.beside if one.name != exact)
            self._service.exchange(Directory(directory.agents, directory.base, kept))
            self._free_when_unused(gone[0])
            return Change(agent, gone[0].adapter, None, None, tuple(sorted(self._leaving)))

    def reload(self) -> tuple[list[Change], list[str]]:
        """Makes every agent answer with what the store says now. Changes, and what is wrong where an agent kept its version."""
        changes, problems = [], []
        with self._changing:
            for agent, spec in self._loaded.fleet.agents.items():
                if spec.adapter is None:
                    continue
                try:
                    stored = self._store.resolve(agent, spec.adapter)
                    if stored.digest != self._current(agent).digest:
                        changes.append(self._install(self._loaded_one(agent, stored)[0]))
                except OnecardError as error:
                    problems.append(f"{agent} keeps {self._current(agent).adapter}: {error}")
        return changes, problems

    def _loaded_one(self, agent: str, stored: StoredVersion) -> tuple[Answerer, bool]:
        """The version as an answerer, verified by the engine; and whether it was not in memory before."""
        current = self._current(agent)
        before = current.engine.info().adapters
        answerer = self._load(agent, self._spec(agent), current.engine, stored)
        self._leaving.discard(answerer.digest or "")
        return answerer, answerer.digest not in before

    def _install(self, answerer: Answerer) -> Change:
        directory = self._service.directory
        current = self._current(answerer.agent)
        agents = [answerer if one.agent == answerer.agent else one for one in directory.agents]
        beside = [one for one in directory.beside if one.name != answerer.name]
        self._service.exchange(Directory(agents, directory.base, beside))
        if current.digest != answerer.digest:
            self._free_when_unused(current)
        leaving = tuple(sorted(self._leaving))
        return Change(answerer.agent, current.adapter, answerer.adapter, answerer.digest, leaving)

    def _free_when_unused(self, answerer: Answerer) -> None:
        """From a thread: waits for the requests that were accepted for it, then frees it, unless somebody wants it again."""
        digest, engine = answerer.digest, answerer.engine
        if digest is None or self._wanted(digest):
            return
        self._leaving.add(digest)
        threading.Thread(target=self._drain, args=(engine, digest), name="onecard-free-adapter", daemon=True).start()

    def _drain(self, engine: Engine, digest: str) -> None:
        while digest in self._leaving:
            if not self._service.uses(digest):
                with self._changing:
                    if digest in self._leaving and not self._wanted(digest) and not self._service.uses(digest):
                        with suppress(OnecardError):  # the engine is closed, or has forgotten it
                            engine.remove_adapter(digest)
                        self._leaving.discard(digest)
                    elif self._wanted(digest):
                        self._leaving.discard(digest)
                return
            time.sleep(DRAIN_POLL_S)

    def _wanted(self, digest: str) -> bool:
        directory = self._service.directory
        return any(one.digest == digest for one in (*directory.agents, *directory.beside))

    def _current(self, agent: str) -> Answerer:
        known = {one.agent: one for one in self._service.directory.agents}
        if agent not in known:
            raise UnknownName(
                f"no agent '{agent[:80]}'{nearest(agent[:80], list(known))}", where="agent", allowed=", ".join(known)
            )
        return known[agent]

    def _spec(self, agent: str) -> AgentSpec:
        self._current(agent)
        return self._loaded.fleet.agents[agent]

    def _adapter_name(self, agent: str) -> str:
        name = self._spec(agent).adapter_name
        if name is None:
            raise InputError(f"{agent} has no adapter: the bare base answers for it", where="agent")
        return name

    def _name_following_production(self, agent: str) -> str:
        """The adapter's name; Refusal when the fleet pins a version, because the store's production would not be what answers."""
        name, reference = self._adapter_name(agent), self._spec(agent).adapter
        if reference != f"{name}@production":
            raise Refusal(
                f"the fleet says {reference} for {agent}, so promotions do not move it",
                where=f"{self._loaded.file}: agents.{agent}.adapter",
                allowed=f"{name}@production",
            )
        return name
