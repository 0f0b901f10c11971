from __future__ import annotations

import asyncio
from types import ModuleType

import pytest

from onecard.errors import DataError, EngineFailed, InputError, OnecardError, Overloaded, UnknownName
from onecard.evaluation.questions import Question
from onecard.evaluation.suite import Answer, ask_all, score


def test_answers_come_in_the_order_of_the_questions_and_no_more_are_under_way_than_allowed(makes: ModuleType) -> None:
    questions, slow, seen = makes.some_questions(10), makes.Slow(), []
    answers = asyncio.run(ask_all(questions, slow, concurrency=6, on_answer=lambda *done: seen.append(done)))
    assert [answer.text for answer in answers] == [question.completion for question in questions]
    assert slow.most == 6
    assert seen == [(number, 20) for number in range(1, 21)]


@pytest.mark.parametrize("concurrency", [0, 1, 500])
def test_any_concurrency_asks_every_question_once(makes: ModuleType, concurrency: int) -> None:
    asked: list[Question] = []

    async def ask(question: Question) -> Answer:
        asked.append(question)
        return Answer("a", "stop", 0.0)

    questions = makes.some_questions(4)
    asyncio.run(ask_all(questions, ask, concurrency=concurrency))
    assert sorted(asked, key=lambda question: question.line) == questions


def test_no_questions_give_no_answers(makes: ModuleType) -> None:
    assert asyncio.run(ask_all([], makes.perfect, concurrency=4)) == []


def test_a_crash_ends_the_run_with_the_row_and_the_reason(makes: ModuleType) -> None:
    with pytest.raises(EngineFailed) as raised:
        asyncio.run(ask_all(makes.some_questions(5), makes.crashing, concurrency=3))
    assert raised.value.where == "held-out.jsonl:3"
    assert "RuntimeError: out of luck" in raised.value.problem
    assert "second line" not in raised.value.problem


def test_a_failure_cancels_what_is_under_way(makes: ModuleType) -> None:
    cancelled = []

    async def ask(question: Question) -> Answer:
        if question.line == 2:
            raise EngineFailed("the engine died")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(question.line)
            raise
        raise AssertionError("nobody waits a minute")

    with pytest.raises(EngineFailed, match="the engine died"):
        asyncio.run(ask_all(makes.some_questions(2), ask, concurrency=2))
    assert cancelled == [1]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(InputError("too long"), DataError), (UnknownName("no such"), UnknownName), (Overloaded("later"), Overloaded)],
)
def test_only_a_question_that_cannot_be_asked_is_blamed_on_the_data(
    makes: ModuleType, raised: OnecardError, seen: type[OnecardError]
) -> None:
    async def ask(question: Question) -> Answer:
        raise raised

    with pytest.raises(seen) as caught:
        asyncio.run(ask_all([makes.a_question(9)], ask, concurrency=1))
    assert type(caught.value) is seen
    assert caught.value.where == ("held-out.jsonl:9" if seen is DataError else None)


def test_the_base_tokenizer_counts_before_the_server_does(makes: ModuleType) -> None:
    answer = Answer("one two three", "stop", 0.5, tokens=99)
    assert score(makes.a_question(), answer, makes.count_words).tokens == 3
    assert score(makes.a_question(), answer, None).tokens == 99


def test_tokens_that_nobody_counts_are_an_error(makes: ModuleType) -> None:
    with pytest.raises(EngineFailed, match="does not count tokens"):
        score(makes.a_question(), Answer("text", "stop", 0.5), None)


def test_a_score_says_how_the_answer_stands_to_its_reference(makes: ModuleType) -> None:
    question = makes.a_question(completion="A heap is a tree.")
    cut = score(question, Answer("a heap is", "length", 0.25), makes.count_words)
    assert (cut.tokens, cut.ended_by_itself, cut.seconds) == (3, False, 0.25)
    assert cut.overlap == pytest.approx(0.75)
