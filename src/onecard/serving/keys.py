"""Who may ask: keys with scopes, in one file that holds no key.

A key is 256 random bits, so one sha256 of it cannot be guessed back; slow hashes are for passwords. The file is read again when it has
changed: a key that was removed stops with the next request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onecard.adapters import durable
from onecard.errors import InputError, UnknownName, nearest

PREFIX = "onecard_"
ADMIN = "admin"
EVERYONE = "infer:*"
SCOPE = r"^(admin|infer:(\*|[A-Za-z0-9][A-Za-z0-9._-]{0,63}))$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"


class Key(BaseModel):
    """What is kept of a key: its name, what it may do, the sha256 of the key, and its first characters to know it by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    scopes: tuple[str, ...] = Field(min_length=1)
    begins: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    added: str

    def may_infer(self, agent: str) -> bool:
        """Whether it may ask this agent; `base` is the bare base. An admin key may only if it says so."""
        return EVERYONE in self.scopes or f"infer:{agent}" in self.scopes

    @property
    def may_administer(self) -> bool:
        return ADMIN in self.scopes


class KeyFile(BaseModel):
    """The file's whole content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(1, alias="schema", ge=1, le=1)
    keys: tuple[Key, ...] = ()


@dataclass
class KeyRing:
    """The keys of one file, which need not exist yet. Changes are written at once, readable by its owner only."""

    file: Path
    _read: tuple[tuple[int, int, int] | None, tuple[Key, ...]] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every key. InputError for a file that is not one of keys."""
        with self._lock:
            state = _state_of(self.file)
            if self._read is None or self._read[0] != state:
                self._read = (state, _keys_of(self.file))
            return self._read[1]

    def find(self, secret: str) -> Key | None:
        """The entry of a key. Every entry is compared, in constant time, whichever matches."""
        digest, found = _digest(secret), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def add(self, name: str, scopes: tuple[str, ...]) -> str:
        """A new key, returned once and never again. InputError for a name or scope that is none, or a name that is taken."""
        _check(name, scopes)
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            name=name,
            scopes=tuple(dict.fromkeys(scopes)),
            begins=secret[: len(PREFIX) + 4],
            sha256=_digest(secret),
            added=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._changing() as keys:
            if any(one.name == name for one in keys):
                raise InputError(f"there is a key '{name}' already", where=str(self.file), next_step="remove it first")
            self._write((*keys, key))
        return secret

    def remove(self, name: str) -> None:
        """Takes a key away; UnknownName when there is none of this name."""
        with self._changing() as keys:
            known = [key.name for key in keys]
            if name not in known:
                allowed = ", ".join(known) or "none yet"
                raise UnknownName(f"no key '{name}'{nearest(name, known)}", where=str(self.file), allowed=allowed)
            self._write(tuple(key for key in keys if key.name != name))

    def _write(self, keys: tuple[Key, ...]) -> None:
        content = KeyFile(keys=keys).model_dump_json(indent=1, by_alias=True).encode() + b"\n"
        temporary = durable.prepare(self.file, content)
        temporary.chmod(0o600)
        temporary.replace(self.file)
        durable.flush_folder(self.file.parent)
        with self._lock:
            self._read = None

    @contextmanager
    def _changing(self) -> Iterator[tuple[Key, ...]]:
        """The keys, while nobody else writes them."""
        with durable.disk_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.file}.lock", timeout=30):
                yield self.keys


def _check(name: str, scopes: tuple[str, ...]) -> None:
    if not re.fullmatch(NAME, name):
        raise InputError(f"'{name[:60]}' is no name for a key", allowed="letters, digits, . _ @ - ; up to 64 of them")
    for scope in scopes:
        if not re.fullmatch(SCOPE, scope):
            raise InputError(f"'{scope[:60]}' is no scope", allowed="infer:<agent>, infer:base, infer:*, admin")
    if not scopes:
        raise InputError("a key without a scope may do nothing", allowed="infer:<agent>, infer:base, infer:*, admin")


def _keys_of(file: Path) -> tuple[Key, ...]:
    content = durable.read_bytes(file)
    if content is None:
        return ()
    try:
        return KeyFile.model_validate_json(content).keys
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"not a file of keys ({place}: {first['msg']})",
            where=str(file),
            next_step="make a new one with onecard keys add",
        ) from None


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
