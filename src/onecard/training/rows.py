"""Training rows from a JSONL file: one object a line with prompt, completion and, where an agent has styles, the preset's name.

Every fault names file and line; a file with a fault is never trained on in part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onecard.errors import DataError, nearest

KEYS = ("prompt", "completion", "preset")


@dataclass(frozen=True)
class Row:
    """One example. `where` is file:line."""

    prompt: str
    completion: str
    preset: str | None
    where: str


def scan_rows(
    file: Path, presets: Iterable[str] | None = None, limit: int | None = None
) -> tuple[list[Row], list[DataError]]:
    """The good ones of the first `limit` rows, and the fault of each other. `presets` None takes any name.

    DataError when the file cannot be read or has no rows.
    """
    known = None if presets is None else sorted(presets)
    rows: list[Row] = []
    faults: list[DataError] = []
    for number, line in enumerate(_lines(file), start=1):
        if limit is not None and len(rows) + len(faults) >= limit:
            break
        if not line.strip():
            continue
        try:
            rows.append(_row(line, f"{file}:{number}", known))
        except DataError as fault:
            faults.append(fault)
    if not rows and not faults:
        raise DataError("no rows", where=str(file), allowed='one {"prompt": ..., "completion": ...} a line')
    return rows, faults


def data_sha256(rows: Iterable[Row]) -> str:
    """sha256 hex over the rows' content in order: the same examples give the same digest, wherever the file lies."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.prompt, row.completion, row.preset]).encode() + b"\n")
    return digest.hexdigest()


def _lines(file: Path) -> list[str]:
    # Only "\n" ends a line: str.splitlines would also cut at characters that JSON strings may hold, such as U+2028.
    try:
        return file.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError("no such file", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from None


def _row(line: str, where: str, presets: list[str] | None) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", where=where) from None
    if not isinstance(value, dict):
        raise DataError(f"a row is an object, this is {json.dumps(value)[:40]}", where=where)
    for key in value:
        if key not in KEYS:
            raise DataError(f"unknown key '{key}'{nearest(key, KEYS)}", where=where, allowed=", ".join(KEYS))
    for key in ("prompt", "completion"):
        text = value.get(key)
        if not isinstance(text, str) or not text.strip():
            state = "missing" if key not in value else "not text" if not isinstance(text, str) else "empty"
            raise DataError(f"the {key} is {state}", where=where, allowed="text with at least one character")
        if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
            raise DataError(f"the {key} holds half a surrogate pair, which is no character", where=where)
    preset = value.get("preset")
    if preset is not None and not isinstance(preset, str):
        raise DataError(f"the preset is {json.dumps(preset)[:40]}", where=where, allowed="a preset's name")
    if preset is not None and presets is not None and preset not in presets:
        raise DataError(f"no preset '{preset}'{nearest(preset, presets)}", where=where, allowed=", ".join(presets))
    return Row(value["prompt"], value["completion"], preset, where)
