"""What a place for adapters must offer: the narrow interface between the store's rules and where the bytes lie.

`shelf.py` keeps it in a local folder, `remote_shelf.py` in an object store. Both promise: versions are immutable and appear at once,
changes come one after the other, and a change and its line in the log are one step that happens or does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from onecard.adapters.aliases import Aliases
from onecard.adapters.journal import LogEntry
from onecard.adapters.manifest import Manifest, Verdict
from onecard.adapters.version import StoredVersion


class Moment(Protocol):
    """An adapter as it is while somebody changes it: the change comes about only if all this is still so."""

    def aliases(self) -> Aliases: ...

    def resolve(self, reference: str) -> str:
        """The version that a version or alias means; UnknownName says what there is."""


class AdapterShelf(Moment, Protocol):
    """All versions of one adapter of one agent."""

    @property
    def agent(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str:
        """agent/name"""

    def exists(self) -> bool:
        """True when it has versions or a log."""

    def versions(self) -> list[str]:
        """Versions, oldest first."""

    def entries(self) -> list[LogEntry]:
        """The log, oldest first."""

    def read(self, version: str) -> StoredVersion:
        """A version with its manifest; AdapterRefused when the manifest is not of this place."""

    def verdict(self, digest: str) -> Verdict | None: ...

    def keep_verdict(self, verdict: Verdict, by: str) -> None: ...

    def differences(self, version: str) -> list[str]:
        """What differs from the time of publishing, hashing every file; empty when nothing does."""

    def publish(self, folder: Path, sizes: Mapping[str, int], manifest: Manifest, by: str) -> StoredVersion:
        """Checks a copy of the files in `sizes` and makes it the next version; all of it happens or nothing does."""

    def change(self, doing: str, by: str, decide: Callable[[Moment], LogEntry | None]) -> None:
        """Puts the aliases of the entry that `decide` returns in force, and the entry into the log; None changes nothing.

        `decide` is asked again when somebody else was faster.
        """

    def remove(self, version: str, by: str, decide: Callable[[Moment], LogEntry]) -> None:
        """Deletes a version together with the change that `decide` returns."""


class Place(Protocol):
    """All adapters of all agents."""

    @property
    def where(self) -> str:
        """The folder or the URL, for messages."""

    @property
    def runs_folder(self) -> Path:
        """The local folder in which a run that will publish here keeps its files."""

    def exists(self) -> bool: ...

    def shelf(self, agent: str, name: str) -> AdapterShelf: ...

    def names(self) -> Sequence[tuple[str, str]]:
        """(agent, name) of everything that lies where an adapter would, sorted; unchecked."""
