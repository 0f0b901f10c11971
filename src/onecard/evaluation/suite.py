"""Asks one answerer all questions of a suite, several at once, and scores what comes back.

An answerer is any callable from a question to an answer, so the gate also judges servers that are not ours.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

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
    likelihoods: tuple[float, ...] = ()


@dataclass(frozen=True)
class Likelihoods:
    """Mean log-likelihoods, nats per token: of each candidate of a row, and of its reference answer. Empty and None: not asked."""

    candidates: tuple[float, ...] = ()
    reference: float | None = None


Ask = Callable[[Question], Awaitable[Answer]]
Score = Callable[
    [Question, Sequence[str]], Awaitable[Sequence[float]]
]  # mean log-likelihood of each text after the prompt
CountTokens = Callable[[str], int]
OnAnswer = Callable[[int, int], None]  # answered so far, of how many


class ScoredAnswer(Record):
    """An answer with what the scorers say. `tokens` are the base tokenizer's where it is at hand, else the server's count.

    `generated` False: only likelihoods were asked, so text and all that is measured of it mean nothing. `seconds` are measured at the
    fleet's concurrency, `alone_seconds` with nobody else. `reference_nats` is the mean negative log-likelihood of the reference, per token.
    """

    text: str
    finish_reason: str | None
    seconds: float
    tokens: int
    ended_by_itself: bool
    repetition: float
    overlap: float
    generated: bool = True
    exact: bool | None = None
    chose_best: bool | None = Field(None, description="Whether the answer names the best candidate and no other.")
    alone_seconds: float | None = None
    likelihoods: tuple[float, ...] = Field((), description="Of the row's candidates, mean nats per token.")
    reciprocal_rank: float | None = None
    reference_nats: float | None = None


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


def ranking(score_texts: Score) -> Ask:
    """An answerer whose answer is the candidate it finds the most likely: what a re-ranker puts first, and how long that took."""

    async def ask(question: Question) -> Answer:
        asked_s = time.monotonic()
        found = tuple(await score_texts(question, question.candidates))
        first = max(range(len(found)), key=found.__getitem__)
        return Answer(question.candidates[first], "stop", time.monotonic() - asked_s, 0, found)

    return ask


async def score_all(
    questions: Sequence[Question],
    score_texts: Score,
    wanted: Callable[[Question], tuple[bool, bool]],
    *,
    concurrency: int,
    on_answer: OnAnswer | None = None,
) -> list[Likelihoods]:
    """Likelihoods in the order of the questions; `wanted` says of each whether its candidates and its reference are scored.

    EngineFailed for an answerer that gives another number of them, or NaN.
    """

    async def ask(question: Question) -> Answer:
        candidates, reference = wanted(question)
        texts = [*(question.candidates if candidates else ()), *([question.completion] if reference else [])]
        found = tuple(await score_texts(question, texts))
        if len(found) != len(texts) or not all(map(math.isfinite, found)):
            raise EngineFailed(f"{len(texts)} texts were to be scored, and {found} came back", where=question.where)
        return Answer("", None, 0, 0, found)

    answers = await ask_all(questions, ask, concurrency=concurrency, on_answer=on_answer)
    done = []
    for question, answer in zip(questions, answers, strict=True):
        reference = wanted(question)[1]
        found = answer.likelihoods
        done.append(Likelihoods(found[:-1] if reference else found, found[-1] if reference else None))
    return done


def score(
    question: Question,
    answer: Answer | None,
    count_tokens: CountTokens | None,
    likely: Likelihoods | None = None,
    alone_s: float | None = None,
) -> ScoredAnswer:
    """One row in figures; `answer` None when only likelihoods were asked. EngineFailed when nobody can count an answer's tokens."""
    text = answer.text if answer else ""
    tokens = 0 if answer is None else count_tokens(text) if count_tokens is not None else answer.tokens
    if tokens is None:
        raise EngineFailed(
            "the server does not count tokens and the base's tokenizer is not on this machine",
            where=question.where,
            next_step="fetch the base's tokenizer, or let the server send `usage`",
        )
    likely = likely or Likelihoods()
    candidates = (answer.likelihoods if answer else ()) or likely.candidates
    ranked = bool(candidates) and question.best is not None
    return ScoredAnswer(
        text=text,
        finish_reason=answer.finish_reason if answer else None,
        seconds=round(answer.seconds, 4) if answer else 0,
        tokens=tokens,
        ended_by_itself=scorers.ended_by_itself(answer.finish_reason) if answer else False,
        repetition=scorers.repetition(text),
        overlap=scorers.overlap(text, question.completion),
        generated=answer is not None,
        exact=scorers.exact(text, (question.completion, *question.accepted)) if answer else None,
        chose_best=scorers.choice(text, question.candidates) == question.best
        if answer and question.candidates
        else None,
        alone_seconds=None if alone_s is None else round(alone_s, 4),
        likelihoods=candidates,
        reciprocal_rank=scorers.reciprocal_rank(candidates, question.best or 0) if ranked else None,
        reference_nats=None if likely.reference is None else -likely.reference,
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
