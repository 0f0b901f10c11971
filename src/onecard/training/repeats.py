"""Rows that stand there more than once: whole rows, prompts with several answers, and rows that are also in the suite's held-out file.

A repeated row weighs twice; a held-out row that was trained on proves nothing. The comparison with held-out rows is the gate's own:
without regard to case and white space, a prompt always, an answer from eight words on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.errors import DataError
from onecard.fleet.recipe import DataChecksSection
from onecard.training.remarks import Remark
from onecard.training.row_files import records
from onecard.training.rows import Row

SHORT_ANSWER_WORDS = 8
NAMED = 3  # so many places are named, the others counted


@dataclass(frozen=True)
class Repeat:
    """Two places: `where` repeats, wholly or in part, what stands `at`."""

    where: str
    at: str


@dataclass(frozen=True)
class HeldOut:
    """The suite's prompts and long answers in plain form, each with its file:line."""

    prompts: dict[str, str]
    answers: dict[str, str]


@dataclass(frozen=True)
class Repeats:
    """What `find_repeats` saw. `conflicts` has one entry for each prompt that is answered in more than one way."""

    rows: int
    duplicates: tuple[Repeat, ...]
    conflicts: tuple[Repeat, ...]
    leaks: tuple[Repeat, ...]

    def faults(self, limits: DataChecksSection) -> list[DataError]:
        """What the recipe's thresholds do not let pass."""
        found = []
        if self.duplicates and len(self.duplicates) > limits.duplicates * self.rows:
            found.append(
                DataError(
                    f"{_share(self.duplicates, self.rows)} repeat another row word for word: {_named(self.duplicates)}",
                    where=self.duplicates[0].where,
                    allowed=f"a share of at most {limits.duplicates:g} (data_checks.duplicates of the recipe)",
                    next_step="take the repetitions out, or raise data_checks.duplicates",
                )
            )
        if len(self.leaks) > limits.leaks:
            found.append(
                DataError(
                    f"{_rows(self.leaks)} also stand in the suite's held-out rows: {_named(self.leaks)}",
                    where=self.leaks[0].where,
                    allowed=f"at most {limits.leaks} (data_checks.leaks of the recipe)",
                    next_step="take them out of one of the two files",
                )
            )
        return found

    def remarks(self, limits: DataChecksSection) -> list[Remark]:
        """What the thresholds let pass and what has none."""
        found = []
        if self.duplicates and len(self.duplicates) <= limits.duplicates * self.rows:
            said = f"{_share(self.duplicates, self.rows)} repeat another row word for word: {_named(self.duplicates)}"
            found.append(Remark(self.duplicates[0].where, said, "take the repetitions out"))
        if self.conflicts:
            count = len(self.conflicts)
            said = f"{count:,} {'prompt is' if count == 1 else 'prompts are'} answered in more than one way"
            next_step = "fine where several answers are right; else keep one of them, or tell them apart by preset"
            found.append(Remark(self.conflicts[0].where, f"{said}: {_named(self.conflicts)}", next_step))
        if 0 < len(self.leaks) <= limits.leaks:
            said = f"{_rows(self.leaks)} also stand in the suite's held-out rows: {_named(self.leaks)}"
            found.append(Remark(self.leaks[0].where, said, "the gate refuses a suite with such rows"))
        return found


def find_repeats(rows: Sequence[Row], held_out: HeldOut | None = None) -> Repeats:
    """Compares the rows with one another and with the held-out ones."""
    whole: dict[object, str] = {}
    prompts: dict[object, tuple[str, str]] = {}
    duplicates: list[Repeat] = []
    conflicts: dict[object, Repeat] = {}
    leaks: list[Repeat] = []
    for row in rows:
        before, answer = row.conversation[:-1], row.conversation[-1][1]
        asked = (row.preset, before)
        key = (asked, answer, row.rejected)
        if key in whole:
            duplicates.append(Repeat(row.where, whole[key]))
        else:
            whole[key] = row.where
            first = prompts.setdefault(asked, (answer, row.where))
            if first[0] != answer and row.rejected is None:  # pairs rightly compare many answers to one prompt
                conflicts.setdefault(asked, Repeat(row.where, first[1]))
        if held_out and (at := _leak(row, held_out)):
            leaks.append(Repeat(row.where, at))
    return Repeats(len(rows), tuple(duplicates), tuple(conflicts.values()), tuple(leaks))


def read_held_out(file: Path) -> HeldOut:
    """The suite's rows, in any format that training reads. DataError when the file or a line of it cannot be read."""
    prompts: dict[str, str] = {}
    answers: dict[str, str] = {}
    for where, record in records(file):
        if isinstance(record, DataError):
            raise record
        said = record if isinstance(record, dict) else {}
        for text in _texts(said, "prompt", "user"):
            prompts.setdefault(plain(text), where)
        for key in ("completion", "chosen"):
            for text in _texts(said, key, "assistant"):
                answers.setdefault(plain(text), where)
    return HeldOut(prompts, answers)


def plain(text: str) -> str:
    """Text as two files are compared: without regard to case and white space."""
    return " ".join(text.casefold().split())


def _texts(record: dict[str, Any], key: str, role: str) -> list[str]:
    """The text under `key`, or what `role` says in the turns under it or under `messages`."""
    found = []
    for value in (record.get(key), record.get("messages")):
        if isinstance(value, str) and value.strip():
            found.append(value)
        for turn in value if isinstance(value, list) else ():
            if isinstance(turn, dict) and turn.get("role") == role and isinstance(turn.get("content"), str):
                found.append(turn["content"])
    return found


def _leak(row: Row, held_out: HeldOut) -> str | None:
    turns = row.conversation
    asked = [content for role, content in turns if role == "user"]
    told = [content for role, content in turns if role == "assistant"] + ([row.rejected] if row.rejected else [])
    at = next((held_out.prompts[plain(text)] for text in asked if plain(text) in held_out.prompts), None)
    long = (text for text in told if len(text.split()) >= SHORT_ANSWER_WORDS)
    return at or next((held_out.answers[plain(text)] for text in long if plain(text) in held_out.answers), None)


def _share(found: Sequence[Repeat], rows: int) -> str:
    return f"{len(found):,} of {rows:,} rows ({len(found) / rows:.1%})"


def _rows(found: Sequence[Repeat]) -> str:
    return f"{len(found):,} {'row' if len(found) == 1 else 'rows'}"


def _named(found: Sequence[Repeat]) -> str:
    """`:22 and :21; :40 and held-out.jsonl:3; and 7 more`: the source stands beside the message already."""
    more = f"; and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return "; ".join(_pair(repeat) for repeat in found[:NAMED]) + more


def _pair(repeat: Repeat) -> str:
    source, _, number = repeat.where.rpartition(":")
    return f":{number} and {repeat.at.removeprefix(source)}"
