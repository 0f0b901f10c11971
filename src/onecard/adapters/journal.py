"""log.jsonl of an adapter: who did what when, one JSON object a line, only ever appended.

Each line also holds the aliases as they stood after it. An operation that was killed before it could write its line is thereby
found later: `unrecorded` says what the log missed, and the store appends it before it changes anything else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from onecard.adapters import durable
from onecard.adapters.aliases import Aliases
from onecard.adapters.manifest import Record
from onecard.errors import InputError

Action = Literal["publish", "promote", "rollback", "remove", "appeared", "vanished", "moved"]


class LogEntry(Record):
    """One line. `at` is UTC in ISO 8601; `aliases` as they stood afterwards; `manifest_sha256` only on publish."""

    at: str
    by: str
    action: Action
    version: str | None = None
    digest: str | None = None
    manifest_sha256: str | None = None
    reason: str | None = None
    forced: bool = False
    aliases: Aliases = Aliases()


def read_journal(file: Path) -> list[LogEntry]:
    """Every entry, oldest first; empty when there is no file. InputError names file and line of a corrupt one.

    A last line without its line break was never finished (its writer died) and does not count unless it is whole.
    """
    lines = (durable.read_bytes(file) or b"").decode(errors="replace").split("\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entries.append(LogEntry.model_validate_json(line))
        except ValidationError as error:
            if number == len(lines):
                break
            raise InputError(
                f"corrupt log line ({error.errors()[0]['msg']})",
                where=f"{file}:{number}",
                next_step="mend the line or delete it; the versions themselves are not touched by this",
            ) from None
    return entries


def append(file: Path, entries: Sequence[LogEntry]) -> int:
    """Appends whole lines, cutting off an unfinished last one; returns the size to `cut` back to for undoing it."""
    size = None if file.exists() else 0  # None: nothing is known and nothing written yet, so nothing may be cut
    try:
        with file.open("a+b", buffering=0) as log:
            size, first = _whole_lines(log.fileno())
            log.truncate(size)
            content = memoryview(first + "".join(entry.model_dump_json() + "\n" for entry in entries).encode())
            while content:
                content = content[os.write(log.fileno(), content) :]
            durable.flush(log.fileno())
    except BaseException:
        if size is not None:
            cut(file, size)
        raise
    return size


def cut(file: Path, size: int) -> None:
    """Takes back what `append` wrote; needs no free space. A log that was new disappears."""
    if size == 0:
        file.unlink(missing_ok=True)
    else:
        os.truncate(file, size)


def unrecorded(
    entries: Sequence[LogEntry], versions: Sequence[str], aliases: Aliases, at: str, by: str
) -> list[LogEntry]:
    """Entries that the log lacks: versions that appeared or vanished, or aliases that moved, without a line."""
    known: set[str] = set()
    for entry in entries:
        if entry.version and entry.action in ("publish", "appeared"):
            known.add(entry.version)
        elif entry.version and entry.action in ("remove", "vanished"):
            known.discard(entry.version)

    def missed(action: Action, version: str | None = None) -> LogEntry:
        return LogEntry(
            at=at, by=by, action=action, version=version, reason="found so, without a line", aliases=aliases
        )

    found = [missed("appeared", version) for version in versions if version not in known]
    found += [missed("vanished", version) for version in sorted(known - set(versions))]
    if not found and aliases != (entries[-1].aliases if entries else Aliases()):
        found = [missed("moved")]
    return found


def _whole_lines(descriptor: int) -> tuple[int, bytes]:
    """(bytes to keep, line break to add first): an unfinished last line goes, one that only lacks its break gets it."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    end = content.rfind(b"\n") + 1
    try:
        LogEntry.model_validate_json(content[end:])
    except ValidationError:
        return end, b""
    return len(content), b"\n"
