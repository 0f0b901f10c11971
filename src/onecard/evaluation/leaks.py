"""Refuses held-out rows that the adapter was trained on: an answer that was learned by heart proves nothing.

Texts are compared without regard to case and white space. A short answer ("Yes.", "4.") may rightly occur in both files, so an answer
counts as leaked only from eight words on; a prompt always counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from onecard.errors import DataError
from onecard.evaluation.questions import Question

SHORT_ANSWER_WORDS = 8
NAMED = 5  # so many leaks are named, the others counted


class TrainingRow(Protocol):
    """A row an adapter was trained on; `where` is file:line."""

    @property
    def prompt(self) -> str: ...

    @property
    def completion(self) -> str: ...

    @property
    def where(self) -> str: ...


def refuse_leaks(questions: Iterable[Question], training: Iterable[TrainingRow]) -> None:
    """DataError naming the lines of both files when a prompt or a long answer stands in both."""
    prompts: dict[str, str] = {}
    answers: dict[str, str] = {}
    for row in training:
        prompts.setdefault(_plain(row.prompt), row.where)
        answers.setdefault(_plain(row.completion), row.where)
    leaks: list[str] = []
    files = set()
    for question in questions:
        found = _leaks_of(question, prompts, answers)
        leaks += found
        files |= {str(question.file)} if found else set()
    if leaks:
        more = f"; and {len(leaks) - NAMED} more" if len(leaks) > NAMED else ""
        raise DataError(
            f"held-out rows that are also training rows: {'; '.join(leaks[:NAMED])}{more}",
            where=", ".join(sorted(files)),
            next_step="take them out of one of the two files; when out of the training file, train again",
        )


def _leaks_of(question: Question, prompts: dict[str, str], answers: dict[str, str]) -> list[str]:
    found = []
    if there := prompts.get(_plain(question.prompt)):
        found.append(f"the prompt of line {question.line} is also at {there}")
    there = answers.get(_plain(question.completion))
    if there and len(question.completion.split()) >= SHORT_ANSWER_WORDS:
        found.append(f"the answer of line {question.line} is also at {there}")
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
