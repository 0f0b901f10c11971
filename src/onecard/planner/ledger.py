"""The memory ledger: one line a part, in bytes, each with how sure it is and where the figure comes from.

A sum is only as good as its lines, so a ledger also says how many of its bytes are exact and how many are assumed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Tag = Literal["exact", "measured", "fitted", "assumed"]
TAGS: tuple[Tag, ...] = ("exact", "measured", "fitted", "assumed")

Kind = Literal["weights", "cache", "adapters", "working", "process", "training"]


@dataclass(frozen=True)
class Line:
    """One part of the memory. `owner` is the model or agent it is for, or "process" for what an engine's process takes itself.

    `tag`: exact follows from shapes; measured was seen on this machine; fitted was adjusted to measurements named in `source`;
    assumed is judgement, with its reason in `source`.
    """

    part: str
    owner: str
    bytes: int
    tag: Tag
    source: str
    kind: Kind


@dataclass(frozen=True)
class Ledger:
    """Lines and their sums, bytes."""

    lines: tuple[Line, ...]

    @property
    def total_bytes(self) -> int:
        return sum(line.bytes for line in self.lines)

    def bytes_tagged(self, tag: Tag) -> int:
        """What the lines with this tag sum up to."""
        return sum(line.bytes for line in self.lines if line.tag == tag)

    def bytes_of_kind(self, kind: Kind) -> int:
        """Weights, cache, adapters, working memory, the process itself, or what only training needs."""
        return sum(line.bytes for line in self.lines if line.kind == kind)

    def of(self, owner: str) -> Ledger:
        """The lines of one owner."""
        return Ledger(tuple(line for line in self.lines if line.owner == owner))

    @property
    def owners(self) -> tuple[str, ...]:
        """Owners in the order of their first line."""
        return tuple(dict.fromkeys(line.owner for line in self.lines))


def ledger(lines: Iterable[Line]) -> Ledger:
    """A ledger without empty lines."""
    return Ledger(tuple(line for line in lines if line.bytes))
