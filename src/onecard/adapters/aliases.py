"""Which version is candidate, production and previous, and how promotion and rollback move them: pure functions.

`earlier` remembers the productions before `previous`, so that each rollback undoes exactly one promotion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from onecard.adapters.address import number_of
from onecard.adapters.manifest import Record
from onecard.errors import Refusal

Version = Annotated[str, Field(pattern=r"^v[0-9]{4,9}$")]
REMEMBERED = 50  # productions before `previous`; older ones are only in the log


class Aliases(Record):
    """The content of aliases.json. `earlier` is oldest first."""

    candidate: Version | None = None
    production: Version | None = None
    previous: Version | None = None
    earlier: tuple[Version, ...] = ()

    def of(self, version: str) -> list[str]:
        """The aliases that point at a version."""
        return [name for name in ("candidate", "production", "previous") if getattr(self, name) == version]

    def get(self, alias: str) -> str | None:
        """The version an alias points at; `alias` is one of ALIAS_NAMES."""
        version: str | None = getattr(self, alias)
        return version


def published(aliases: Aliases, version: str) -> Aliases:
    """A new version becomes the candidate."""
    return aliases.model_copy(update={"candidate": version})


def promoted(aliases: Aliases, version: str) -> Aliases:
    """`version` becomes production and the old production previous; unchanged when it is production already."""
    if aliases.production == version:
        return aliases
    earlier = aliases.earlier + ((aliases.previous,) if aliases.previous else ())
    return aliases.model_copy(
        update={"production": version, "previous": aliases.production, "earlier": earlier[-REMEMBERED:]}
    )


def rolled_back(aliases: Aliases) -> Aliases:
    """The state before the last promotion; Refusal when there is no earlier production."""
    if aliases.previous is None:
        raise Refusal("there is no earlier production to go back to", next_step="promote a version instead")
    return aliases.model_copy(
        update={
            "production": aliases.previous,
            "previous": aliases.earlier[-1] if aliases.earlier else None,
            "earlier": aliases.earlier[:-1],
        }
    )


def without(aliases: Aliases, version: str) -> Aliases:
    """Forgets a removed version; Refusal when an alias points at it."""
    if names := aliases.of(version):
        raise Refusal(
            f"{version} is {' and '.join(names)}", next_step="publish, promote or roll back to another version first"
        )
    return aliases.model_copy(update={"earlier": tuple(v for v in aliases.earlier if v != version)})


def next_version_number(versions: Sequence[str], logged: Sequence[str]) -> int:
    """One more than any number ever used: a removed version's number is never given to another."""
    return 1 + max((number_of(v) for v in (*versions, *logged)), default=0)
