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

KEYS = ("prompt", "query", "completion", "preset", "candidates", "best", "accepted")
DEFAULT_PRESET = "default"


@dataclass(frozen=True)
class Question:
    """One held-out row: `prompt` is asked under `preset`, `completion` is the reference answer. `line` counts from 1.

    `candidates` are what a re-ranker orders and a chooser picks from; `best` is the number of the right one, from 0. `accepted` are other
    answers that are as exact as the reference.
    """

    preset: str
    prompt: str
    completion: str
    file: Path
    line: int
    candidates: tuple[str, ...] = ()
    best: int | None = None
    accepted: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def content(self) -> tuple[str, ...]:
        plain = (self.preset, self.prompt, self.completion)
        return (*plain, json.dumps([self.candidates, self.accepted])) if self.candidates or self.accepted else plain

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
    unique: dict[tuple[str, ...], Question] = {}
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
    if "prompt" in row and "query" in row:
        raise DataError("the row has a prompt and a query, which are the same", where=where, allowed="one of them")
    prompt = _text(row, "query" if "query" in row else "prompt", where)
    candidates = _texts(row, "candidates", where)
    best = _best(row, candidates, where)
    completion = candidates[best] if best is not None and "completion" not in row else _text(row, "completion", where)
    accepted = _texts(row, "accepted", where)
    return Question(_preset(row, presets, where), prompt, completion, file, number, candidates, best, accepted)


def _texts(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of texts, or nothing."""
    values = row.get(key)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise DataError(f"{key} is not a list", where=where, allowed="a list of texts")
    return tuple(_text({key: value}, key, where) for value in values)


def _best(row: dict[str, Any], candidates: tuple[str, ...], where: str) -> int | None:
    """The right candidate's number; the row names it by number from 0 or by its text."""
    if not candidates:
        if "best" in row:
            raise DataError("the row names the best of no candidates", where=where, allowed="candidates, a list")
        return None
    if len(candidates) < 2 or len(set(candidates)) < len(candidates):
        raise DataError("candidates are too few or repeated", where=where, allowed="at least two different texts")
    best = row.get("best")
    if isinstance(best, str) and best in candidates:
        return candidates.index(best)
    if isinstance(best, int) and not isinstance(best, bool) and 0 <= best < len(candidates):
        return best
    allowed = f"a number from 0 to {len(candidates) - 1}, or the text of a candidate"
    raise DataError(f"best is {json.dumps(best)[:40]}", where=where, allowed=allowed)


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
