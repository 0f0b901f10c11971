"""What the gate's tests share: questions, and answerers that are perfect, empty, repeating, cut, in the wrong style, crashing or slow."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from onecard.evaluation.questions import Question
from onecard.evaluation.suite import Answer, Ask
from onecard.fleet.schema import Check, Preset, Suite

PRESETS = {"terse": Preset(token="<T>", max_new_tokens=32), "verbose": Preset(token="<V>", max_new_tokens=120)}
SHORT = "A {} keeps its keys in order."
LONG = (
    "A {} keeps its keys in order, so that a search may stop early. Every insertion pays a little for that, and the "
    "structure is repaired after each deletion. Programs choose it when they read far more often than they write."
)


def a_question(number: int = 1, preset: str = "terse", **changes: object) -> Question:
    thing = f"structure number {number}"
    fields: dict[str, object] = {
        "preset": preset,
        "prompt": f"Tell me about {thing}, {preset}.",
        "completion": (SHORT if preset == "terse" else LONG).format(thing),
        "file": Path("held-out.jsonl"),
        "line": number,
    }
    return Question(**{**fields, **changes})  # type: ignore[arg-type]


def some_questions(each: int = 10) -> list[Question]:
    """So many terse and so many verbose ones."""
    terse = [a_question(number, "terse") for number in range(1, each + 1)]
    return terse + [a_question(number, "verbose") for number in range(each + 1, 2 * each + 1)]


def a_suite(**changes: object) -> Suite:
    checks = (
        Check(preset="terse", max_tokens=20, overlap=0.5, repetition=0.2),
        Check(preset="verbose", min_tokens=30, overlap=0.5, repetition=0.2),
    )
    return Suite(**{"data": "held-out.jsonl", "checks": checks, **changes})  # type: ignore[arg-type]


def write_rows(file: Path, questions: Sequence[Question]) -> Path:
    rows = [{"prompt": q.prompt, "completion": q.completion, "preset": q.preset} for q in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def count_words(text: str) -> int:
    """A tokenizer for tests: a word is a token."""
    return len(text.split())


def answering(text: str, reason: str = "stop") -> Ask:
    """Always the same answer."""

    async def ask(question: Question) -> Answer:
        return Answer(text, reason, 0.01)

    return ask


async def perfect(question: Question) -> Answer:
    return Answer(question.completion, "stop", 0.01)


async def truncated(question: Question) -> Answer:
    """The right words, cut by the limit before the answer ended."""
    return Answer(" ".join(question.completion.split()[:-1]), "length", 0.01)


async def wrong_style(question: Question) -> Answer:
    """Verbose when terse is asked for, and terse when verbose is."""
    thing = f"structure number {question.line}"
    return Answer((LONG if question.preset == "terse" else SHORT).format(thing), "stop", 0.01)


async def crashing(question: Question) -> Answer:
    if question.line == 3:
        raise RuntimeError("out of luck\nand a second line")
    await asyncio.sleep(0.001)
    return Answer(question.completion, "stop", 0.01)


class Slow:
    """Answers late questions first, and remembers how many were under way at once."""

    def __init__(self) -> None:
        self.under_way = self.most = 0

    async def __call__(self, question: Question) -> Answer:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.02 / question.line)
        self.under_way -= 1
        return Answer(question.completion, "stop", 0.01)


@pytest.fixture(scope="session")
def makes() -> ModuleType:
    """This file's functions: test modules are imported on their own and cannot import one another."""
    return sys.modules[__name__]
