"""One version as its readers see it, and which version a reference means: the same on a disk and at a URL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from onecard.adapters.address import ALIAS_NAMES, Address
from onecard.adapters.aliases import Aliases
from onecard.adapters.manifest import Manifest, Verdict
from onecard.adapters.verification import digest_of
from onecard.errors import AdapterRefused, InputError, UnknownName, nearest


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

    @property
    def where(self) -> str:
        """The folder or the URL of the version, for messages."""
        return str(self.folder)


def resolved(
    reference: str,
    read_versions: Callable[[], Sequence[str]],
    read_aliases: Callable[[], Aliases],
    address: str,
    where: str,
) -> str:
    """The version that a version or alias of an adapter means; UnknownName says what there is.

    Aliases are read before the versions they are looked for in: a version published between the two must not seem gone. Nor must
    one that is let go between them and removed, so there is a second look.
    """
    versions = read_versions()
    if not versions:
        raise UnknownName(f"{address} has no versions", where=where)
    if reference in versions:
        return reference
    for _ in range(2):
        now_at = read_aliases()
        aliases = {alias: now_at.get(alias) for alias in ALIAS_NAMES}
        version, versions = aliases.get(reference), read_versions()
        if version is not None and version in versions:
            return version
    there = ", ".join([*(f"{alias} ({v})" for alias, v in aliases.items() if v in versions), *versions[-8:]])
    why = f": it points at {version}, which is gone" if version else nearest(reference, versions)
    raise UnknownName(f"{address} has no '{reference}'{why}", where=where, allowed=there)


def read_manifest(content: bytes | None, where: str, agent: str, name: str, version: str) -> Manifest:
    """A manifest, which must agree with the place it stands in; AdapterRefused otherwise."""
    if content is None:
        raise AdapterRefused("no manifest", where=where, next_step="publish the adapter again")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(key) for key in fault["loc"])
        raise AdapterRefused(
            f"corrupt manifest ({place + ': ' if place else ''}{fault['msg']})",
            where=where,
            next_step="publish the adapter again, or put the file back from a copy",
        ) from None
    for what, value, expected in (
        ("agent", manifest.agent, agent),
        ("name", manifest.name, name),
        ("version", manifest.version, version),
        ("digest", manifest.digest, digest_of(manifest.files)),
    ):
        if value != expected:
            raise AdapterRefused(f"the manifest's {what} is {value!r}, expected {expected!r}", where=where)
    return manifest


def read_verdict(content: bytes | None, where: str, digest: str) -> Verdict | None:
    """The verdict on a digest, None when there is none; InputError when it is corrupt or of another digest."""
    if content is None:
        return None
    try:
        verdict = Verdict.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"corrupt verdict ({error.errors()[0]['msg']})", where=where, next_step="evaluate the version again"
        ) from None
    if verdict.digest != digest:
        raise InputError(f"this verdict is of {verdict.digest[:12]}", where=where, next_step="evaluate again")
    return verdict


def now() -> str:
    """UTC in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
