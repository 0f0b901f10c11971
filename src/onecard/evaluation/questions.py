"""The held-out rows of a suite as questions: read, checked, and picked so that the same file always gives the same questions.

Which rows are picked depends on each row's content and the seed alone, so rows added to the file displace only a few of the others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from onecard.errors import DataError, nearest
from onecard.fleet.schema import Suite

KEYS = ("prompt", "completion", "preset")
DEFAULT_PRESET = "default"


@dataclass(frozen=True)
class Question:
    """One held-out row: `prompt` is asked under `preset`, `completion` is the reference answer. `line` counts from 1."""

    preset: str
    prompt: str
    completion: str
    file: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def content(self) -> tuple[str, str, str]:
        return self.preset, self.prompt, self.completion

    def number(self, seed: int) -> int:
        """A number below 2**31 that depends on the content and `seed` only: its place in the draw and its sampling seed."""
        return int.from_bytes(sha256(json.dumps([seed, *self.content]).encode()).digest()[:4], "big") >> 1


def read_questions(file: Path, presets: Collection[str]) -> list[Question]:
    """Every row of a JSONL file, in order. A row without a preset is asked under `default`. DataError names file and line."""
    found = [
        _question(line, file, number, presets) for number, line in enumerate(_lines(file), start=1) if line.strip()
    ]
    if not found:
        raise DataError("no rows", where=str(file), allowed='one {"prompt": ..., "completion": ...} a line')
    return found


def pick(questions: Iterable[Question], suite: Suite, seed: int) -> list[Question]:
    """At most `suite.rows` questions of every preset a check names, in file order; an exact repetition is asked once.

    DataError when a check's preset has no row: a check that judges nothing must not pass.
    """
    unique: dict[tuple[str, str, str], Question] = {}
    for question in questions:
        unique.setdefault(question.content, question)
    chosen: list[Question] = []
    for preset in dict.fromkeys(check.preset for check in suite.checks):
        under = [question for question in unique.values() if question.preset == preset]
        if not under:
            have = ", ".join(sorted({question.preset for question in unique.values()}))
            raise DataError(f"no row has the preset '{preset}', which a check judges", where=suite.data, allowed=have)
        chosen += sorted(under, key=lambda question: (question.number(seed), question.line))[: suite.rows]
    return sorted(chosen, key=lambda question: question.line)


def _lines(file: Path) -> list[str]:
    # Only "\n" ends a line: str.splitlines would also cut at characters that JSON strings may hold, such as U+2028.
    try:
        return file.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError("no such file", where=str(file)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start})", where=str(file)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file)) from None


def _question(line: str, file: Path, number: int, presets: Collection[str]) -> Question:
    where = f"{file}:{number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})", where=where) from None
    if not isinstance(row, dict):
        raise DataError(f"a row is an object, this is {line.strip()[:40]}", where=where)
    for key in row:
        if key not in KEYS:
            raise DataError(f"unknown key '{key}'{nearest(key, KEYS)}", where=where, allowed=", ".join(KEYS))
    prompt, completion = (_text(row, key, where) for key in ("prompt", "completion"))
    return Question(_preset(row, presets, where), prompt, completion, file, number)


def _text(row: dict[str, Any], key: str, where: str) -> str:
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        state = "missing" if key not in row else "not text" if not isinstance(text, str) else "empty"
        raise DataError(f"the {key} is {state}", where=where, allowed="text with at least one character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"the {key} holds half a surrogate pair, which is no character", where=where)
    return text


def _preset(row: dict[str, Any], presets: Collection[str], where: str) -> str:
    named = row.get("preset")
    allowed = ", ".join(presets)
    if named is None:
        if DEFAULT_PRESET not in presets:
            raise DataError(
                f"the row names no preset, and there is no '{DEFAULT_PRESET}'", where=where, allowed=allowed
            )
        return DEFAULT_PRESET
    if not isinstance(named, str):
        raise DataError(f"the preset is {json.dumps(named)[:40]}", where=where, allowed=allowed)
    if named not in presets:
        raise DataError(f"no preset '{named}'{nearest(named, list(presets))}", where=where, allowed=allowed)
    return named
