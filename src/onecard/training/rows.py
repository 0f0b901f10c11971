"""Training rows: a prompt and its answer, a conversation, or an answer that is preferred to another; checked one by one.

Every fault names file and line; a file with a fault is never trained on in part. How files are read is told in row_files.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from onecard.errors import DataError, nearest
from onecard.training.preferences import preference
from onecard.training.row_files import records, written_by_hand
from onecard.training.turns import Turn, text_of, turns_of

Kind = Literal["prompt-completion", "chat", "preference"]
KEYS: dict[Kind, tuple[str, ...]] = {
    "prompt-completion": ("prompt", "completion", "preset"),
    "chat": ("messages", "preset"),
    "preference": ("prompt", "chosen", "rejected", "preset"),
}
TOLD_EVERY = 500  # rows read before the next word of it
FORMATS = 'one {"prompt": ..., "completion": ...}, {"messages": [...]} or {"prompt": ..., "chosen": ..., "rejected": ...} a line'


@dataclass(frozen=True)
class Row:
    """One example. `where` is file:line.

    `turns` is the whole conversation, the last answer included, where there is more to it than one prompt and one completion; `prompt`
    then holds what the user said and `completion` what is answered, a paragraph a turn. `last_only`: of several answers only the last
    is learned. `rejected` is the answer that `completion` is preferred to.
    """

    prompt: str
    completion: str
    preset: str | None
    where: str
    turns: tuple[Turn, ...] = ()
    rejected: str | None = None
    last_only: bool = False

    @property
    def kind(self) -> Kind:
        if self.rejected is not None:
            return "preference"
        return "chat" if self.turns else "prompt-completion"

    @property
    def conversation(self) -> tuple[Turn, ...]:
        return self.turns or (("user", self.prompt), ("assistant", self.completion))

    @property
    def answers(self) -> tuple[int, ...]:
        """Places in the conversation of the turns that are learned."""
        found = tuple(place for place, (role, _) in enumerate(self.conversation) if role == "assistant")
        return found[-1:] if self.last_only or self.rejected is not None else found

    def one_answer_each(self) -> Iterator[Row]:
        """The conversation up to each of its answers, of which only that answer is learned."""
        for place in self.answers:
            yield replace(self, turns=self.conversation[: place + 1], last_only=True)

    @property
    def content(self) -> list[object]:
        """What makes two rows the same, as plain data."""
        plain: list[object] = [self.prompt, self.completion, self.preset]
        return plain if self.kind == "prompt-completion" else [*plain, list(self.turns), self.rejected]


@dataclass
class Scan:
    """What was read: the good rows, the fault of each other, and the keys of records that nobody reads."""

    rows: list[Row]
    faults: list[DataError]
    unread: set[str]


def scan_rows(
    source: Path | str, presets: Iterable[str] | None = None, limit: int | None = None
) -> tuple[list[Row], list[DataError]]:
    """The good ones of the first `limit` rows, and the fault of each other. As `read_rows`."""
    scan = read_rows(source, presets, limit)
    return scan.rows, scan.faults


def read_rows(
    source: Path | str,
    presets: Iterable[str] | None = None,
    limit: int | None = None,
    on_count: Callable[[int, int], None] | None = None,
) -> Scan:
    """Reads the first `limit` records. `presets` None takes any name; `on_count` hears how many are read, with a total of 0.

    `source` is a file, a folder or a data set of the hub (row_files.py). DataError when it cannot be read or has no rows.
    """
    known = None if presets is None else sorted(presets)
    strict = written_by_hand(source)
    scan = Scan([], [], set())
    for number, (where, record) in enumerate(records(source)):
        if limit is not None and number >= limit:
            break
        if on_count and number % TOLD_EVERY == 0:
            on_count(number, 0)
        try:
            scan.rows.append(_row(record, where, known, strict))
            scan.unread.update(key for key in record if key not in KEYS[scan.rows[-1].kind])
        except DataError as fault:
            scan.faults.append(fault)
    if not scan.rows and not scan.faults:
        raise DataError("no rows", where=str(source), allowed=FORMATS)
    return scan


def data_sha256(rows: Iterable[Row]) -> str:
    """sha256 hex over the rows' content in order: the same examples give the same digest, wherever the file lies."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.content).encode() + b"\n")
    return digest.hexdigest()


def kind_of(record: dict[str, Any]) -> Kind:
    """What a record is meant to be, by its keys."""
    if "chosen" in record or "rejected" in record:
        return "preference"
    return "chat" if "messages" in record and "completion" not in record else "prompt-completion"


def _row(record: Any, where: str, presets: list[str] | None, strict: bool) -> Row:
    """`strict`: a key nobody reads is a fault. DataError for what is wrong with the record."""
    if isinstance(record, DataError):
        raise record
    if not isinstance(record, dict):
        raise DataError(f"a row is an object, this is {json.dumps(record, default=str)[:40]}", where=where)
    kind = kind_of(record)
    if strict:
        _known_keys(record, kind, where)
    preset = _preset(record.get("preset"), where, presets)
    if kind == "preference":
        turns, chosen, rejected = preference(record, where)
        return Row(_said(turns), chosen, preset, where, _needed((*turns, ("assistant", chosen))), rejected)
    if kind == "chat":
        turns = turns_of(record["messages"], "messages", where, answered=True)
        answers = "\n\n".join(content for role, content in turns if role == "assistant")
        return Row(_said(turns), answers, preset, where, turns)
    return Row(text_of(record, "prompt", where), text_of(record, "completion", where), preset, where)


def _needed(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """No turns where a prompt and a completion say it all."""
    return () if [role for role, _ in turns] == ["user", "assistant"] else turns


def _said(turns: Iterable[Turn]) -> str:
    return "\n\n".join(content for role, content in turns if role == "user")


def _known_keys(record: dict[str, Any], kind: Kind, where: str) -> None:
    for key in record:
        if key not in KEYS[kind]:
            raise DataError(
                f"unknown key '{key}'{nearest(str(key), KEYS[kind])}", where=where, allowed=", ".join(KEYS[kind])
            )


def _preset(preset: Any, where: str, presets: list[str] | None) -> str | None:
    if preset is not None and not isinstance(preset, str):
        raise DataError(f"the preset is {json.dumps(preset, default=str)[:40]}", where=where, allowed="a preset's name")
    if preset is not None and presets is not None and preset not in presets:
        raise DataError(f"no preset '{preset}'{nearest(preset, presets)}", where=where, allowed=", ".join(presets))
    return preset
