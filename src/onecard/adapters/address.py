"""Names of adapters: `agent/name@version`, where the version is vNNNN or an alias, and the checks that keep a name in its folder.

Every name that becomes a path passes through here, so no name can hold a separator, a leading dot or a line break.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onecard.errors import InputError

ALIAS_NAMES = ("candidate", "production", "previous")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"v(?!0000\Z)([0-9]{4}|[1-9][0-9]{4,8})")
_FORM = "agent/name@version, where the version is like v0003 or one of candidate, production, previous"


@dataclass(frozen=True)
class Address:
    """One adapter of one agent; `reference` is a version or an alias, or None when the text named neither."""

    agent: str
    name: str
    reference: str | None = None

    def __str__(self) -> str:
        return f"{self.agent}/{self.name}" + (f"@{self.reference}" if self.reference else "")


def parse_address(text: str) -> Address:
    """`agent/name` or `agent/name@version`; InputError says the form."""
    place, at, reference = text.partition("@")
    agent, slash, name = place.partition("/")
    if not slash or (at and not reference):
        raise InputError(f"'{text}' is not the address of an adapter", allowed=_FORM)
    return Address(
        checked_name("agent", agent), checked_name("adapter", name), checked_reference(reference) if at else None
    )


def parse_reference(text: str) -> tuple[str, str]:
    """`name@version` or `name@alias` as (name, version or alias): what a fleet file writes; InputError otherwise."""
    name, _, reference = text.partition("@")
    if not reference:
        raise InputError(f"'{text}' names no version", allowed="name@version or name@alias, such as synth@production")
    return checked_name("adapter", name), checked_reference(reference)


def checked_name(what: str, name: str) -> str:
    """The name itself if it is safe as a folder's name; InputError otherwise. `what` is agent or adapter."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name an {what}",
            allowed="1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return name


def checked_reference(reference: str) -> str:
    """The version or alias itself; InputError when it is neither."""
    if reference not in ALIAS_NAMES and not is_version(reference):
        raise InputError(f"{reference!r} is neither a version nor an alias", allowed=_FORM)
    return reference


def is_version(text: str) -> bool:
    """True for v0001, v0002, ..., v9999, v10000, ...: one spelling for each number."""
    return _VERSION.fullmatch(text) is not None


def version_of(number: int) -> str:
    return f"v{number:04d}"


def number_of(version: str) -> int:
    """The number of a version that `is_version`."""
    return int(version[1:])
