"""Asks one answerer all questions of a suite, several at once, and scores what comes back.

An answerer is any callable from a question to an answer, so the gate also judges servers that are not ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from onecard.errors import DataError, EngineFailed, InputError, OnecardError, UnknownName
from onecard.evaluation import scorers
from onecard.evaluation.questions import Question
from onecard.evaluation.record import Record


@dataclass(frozen=True)
class Answer:
    """What came back. `tokens` is the answerer's own count, if it has one; `seconds` from asking to the last token."""

    text: str
    finish_reason: str | None
    seconds: float
    tokens: int | None = None


Ask = Callable[[Question], Awaitable[Answer]]
CountTokens = Callable[[str], int]
OnAnswer = Callable[[int, int], None]  # answered so far, of how many


class ScoredAnswer(Record):
    """An answer with what the scorers say. `tokens` are the base tokenizer's where it is at hand, else the server's count."""

    text: str
    finish_reason: str | None
    seconds: float
    tokens: int
    ended_by_itself: bool
    repetition: float
    overlap: float


async def ask_all(
    questions: Sequence[Question], ask: Ask, *, concurrency: int, on_answer: OnAnswer | None = None
) -> list[Answer]:
    """The answers in the order of the questions, at most `concurrency` of them under way. One failure ends them all.

    DataError when a question cannot be asked (such as a prompt longer than the context), EngineFailed when the answerer fails.
    """
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(questions))

    async def caller() -> None:
        for number, question in waiting:
            answers[number] = await _asked(question, ask)
            if on_answer is not None:
                on_answer(len(answers), len(questions))

    callers = [asyncio.create_task(caller()) for _ in range(max(1, min(concurrency, len(questions))))]
    try:
        await asyncio.gather(*callers)
    finally:
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return [answers[number] for number in range(len(questions))]


def score(question: Question, answer: Answer, count_tokens: CountTokens | None) -> ScoredAnswer:
    """One answer in figures; EngineFailed when nobody can count its tokens."""
    tokens = count_tokens(answer.text) if count_tokens is not None else answer.tokens
    if tokens is None:
        raise EngineFailed(
            "the server does not count tokens and the base's tokenizer is not on this machine",
            where=question.where,
            next_step="fetch the base's tokenizer, or let the server send `usage`",
        )
    return ScoredAnswer(
        text=answer.text,
        finish_reason=answer.finish_reason,
        seconds=round(answer.seconds, 4),
        tokens=tokens,
        ended_by_itself=scorers.ended_by_itself(answer.finish_reason),
        repetition=scorers.repetition(answer.text),
        overlap=scorers.overlap(answer.text, question.completion),
    )


async def _asked(question: Question, ask: Ask) -> Answer:
    try:
        return await ask(question)
    except UnknownName:
        raise
    except InputError as error:
        raise DataError(
            f"the question cannot be asked: {error.problem}",
            where=question.where,
            allowed=error.allowed,
            next_step=error.next_step,
        ) from error
    except OnecardError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise EngineFailed(f"no answer: {type(error).__name__}: {reason}", where=question.where) from error
