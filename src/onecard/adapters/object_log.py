"""The log of an adapter in an object store: one object per entry, numbered, each created exclusively and never changed.

The last entry holds everything that is true afterwards: the aliases and the versions that exist. Creating the next number is the only
way to change anything, so log, aliases and versions cannot disagree, whoever is killed whenever, whatever the clocks say.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pydantic import Field, ValidationError

from onecard.adapters.aliases import Aliases, Version
from onecard.adapters.journal import LogEntry
from onecard.adapters.manifest import Record
from onecard.adapters.objects import Objects
from onecard.errors import InputError

_SUFFIX = ".json"


class LogObject(Record):
    """One entry and the state after it. `versions` maps what exists to the sha256 of its manifest; `ended` never comes back."""

    schema_version: int = 1
    id: str
    entry: LogEntry
    versions: dict[Version, str] = Field(default_factory=dict)
    ended: tuple[Version, ...] = ()

    @property
    def aliases(self) -> Aliases:
        return self.entry.aliases


@dataclass(frozen=True)
class State:
    """What is true after entry `number`; number 0 is before the first."""

    number: int = 0
    aliases: Aliases = field(default_factory=Aliases)
    versions: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, ...] = ()


class ObjectLog:
    """Reads and extends the log below one folder. Remembers the last entry it saw, and always looks for a later one."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects = objects
        self._folder = folder
        self._last: State | None = None

    def state(self) -> State:
        """After the last entry that exists now."""
        last = self._last
        if last is None:
            numbers = self._numbers()
            last = self._after(numbers[-1]) if numbers else None
            last = last or State()
        while later := self._after(last.number + 1):
            last = later
        self._last = last
        return last

    def append(self, before: State, content: LogObject) -> bool:
        """Makes the entry after `before`; False when somebody else made one first. `content.id` tells whose it is.

        A try whose answer was lost on the way is tried again by the library and then meets its own object: that is success.
        """
        key = self._key(before.number + 1)
        if not self._objects.create(key, content.model_dump_json(indent=2).encode() + b"\n"):
            there = self._objects.read(key)
            if there is None:
                return False  # it was being made at that moment
            theirs = self._parsed(there, key)
            if theirs.id != content.id:
                self._last = _state(before.number + 1, theirs)
                return False
        self._last = _state(before.number + 1, content)
        return True

    def entries(self) -> list[LogEntry]:
        """Every entry, oldest first; InputError names one that is missing or corrupt."""
        count = self.state().number
        keys = [self._key(number) for number in range(1, count + 1)]
        found = []
        for key, content in zip(keys, self._objects.read_all(keys), strict=True):
            if content is None:
                raise InputError("this entry of the log is gone", where=f"{self._objects.url}/{key}")
            found.append(self._parsed(content, key).entry)
        return found

    def exists(self) -> bool:
        """True when there is an entry. A log never shrinks, so what was seen once is not looked for again."""
        return bool(self._last and self._last.number) or self.state().number > 0

    def manifest_sha256(self, version: str) -> str:
        """What the log says of a version's manifest, which never changes; empty when it names no such version."""
        seen = self._last.versions.get(version) if self._last else None
        return seen or self.state().versions.get(version, "")

    def _numbers(self) -> list[int]:
        names = [name.removesuffix(_SUFFIX) for name in self._objects.names(self._folder) if name.endswith(_SUFFIX)]
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _after(self, number: int) -> State | None:
        key = self._key(number)
        content = self._objects.read(key)
        return None if content is None else _state(number, self._parsed(content, key))

    def _parsed(self, content: bytes, key: str) -> LogObject:
        try:
            return LogObject.model_validate_json(content)
        except ValidationError as error:
            raise InputError(
                f"corrupt log entry ({error.errors()[0]['msg']})",
                where=f"{self._objects.url}/{key}",
                next_step="put the object back from a copy; the versions themselves are not touched by this",
            ) from None

    def _key(self, number: int) -> str:
        return f"{self._folder}/{number:010d}{_SUFFIX}"


def new_id() -> str:
    """Tells one try to append from another's."""
    return os.urandom(12).hex()


def _state(number: int, content: LogObject) -> State:
    return State(number, content.aliases, dict(content.versions), content.ended)
