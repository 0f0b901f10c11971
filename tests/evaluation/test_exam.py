"""The whole room with answerers of every kind: what each must be told by the gate."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from onecard.errors import DataError, EngineFailed, InputError
from onecard.evaluation.exam import Answerers, Exam, bare, hold, prepare
from onecard.evaluation.gate import GateReport
from onecard.evaluation.questions import Question
from onecard.evaluation.suite import Ask, Score
from onecard.fleet.schema import Check, Deadline, Suite
from onecard.training.rows import Row

LOOPING = "the tree holds the keys and " * 12


@pytest.fixture
def exam(makes: ModuleType, tmp_path: Path) -> Exam:
    file = makes.write_rows(tmp_path / "held-out.jsonl", makes.some_questions(10))
    return prepare(makes.a_suite(), makes.PRESETS, file, training=[], rows=None, seed=0)


def held(exam: Exam, makes: ModuleType, candidate: Ask, base: Ask | None = None, **settings: object) -> GateReport:
    against = {"base": base} if base else {}
    who = Answerers("it", candidate, makes.count_words, concurrency=4, against=against)
    return asyncio.run(hold(exam, who, **settings))  # type: ignore[arg-type]


def failing(report: GateReport) -> list[tuple[str, str]]:
    return [(check.preset, check.check.split()[0]) for check in report.checks if not check.passed]


def test_perfect_answers_pass(exam: Exam, makes: ModuleType) -> None:
    report = held(exam, makes, makes.perfect)
    assert report.passed
    assert len(report.rows) == 20
    assert {check.asked for check in report.checks} == {10}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("truncated", [("terse", "end")]),
        ("wrong_style", [("terse", "end"), ("verbose", "have"), ("terse", "words"), ("verbose", "words")]),
    ],
)
def test_each_kind_of_bad_answer_fails_where_it_is_bad(
    exam: Exam, makes: ModuleType, name: str, expected: list[tuple[str, str]]
) -> None:
    report = held(exam, makes, getattr(makes, name))
    assert sorted(failing(report)) == sorted(expected)


def test_empty_answers_fail(exam: Exam, makes: ModuleType) -> None:
    report = held(exam, makes, makes.answering(""))
    assert sorted(failing(report)) == [("terse", "words"), ("verbose", "have"), ("verbose", "words")]


def test_a_loop_fails_by_repetition_even_when_only_one_answer_loops(exam: Exam, makes: ModuleType) -> None:
    async def once(question):
        looping = makes.answering(LOOPING) if question.line == 13 else makes.perfect
        return await looping(question)

    report = held(exam, makes, once)
    assert failing(report) == [("verbose", "repeated")]
    assert next(check for check in report.checks if not check.passed).failing == (13,)


def test_a_crashing_answerer_gives_no_report(exam: Exam, makes: ModuleType) -> None:
    with pytest.raises(EngineFailed, match="no answer: RuntimeError: out of luck"):
        held(exam, makes, makes.crashing)


def test_a_slow_answerer_is_waited_for(exam: Exam, makes: ModuleType) -> None:
    slow = makes.Slow()
    assert held(exam, makes, slow).passed
    assert slow.most == 4


def test_candidate_and_base_are_asked_the_same_and_compared_row_by_row(exam: Exam, makes: ModuleType) -> None:
    told: list[tuple[str, int, int]] = []
    report = held(exam, makes, makes.perfect, makes.wrong_style, on_answer=lambda *step: told.append(step))
    assert report.passed
    length = report.checks[0].against["base"]
    assert (length.mean, length.rows) == (1.0, 10)
    assert [name for name, _, _ in told] == ["it"] * 20 + ["base"] * 20
    assert all(row.candidate.text == row.reference != row.against["base"].text for row in report.rows)


def test_the_same_exam_gives_the_same_report(exam: Exam, makes: ModuleType) -> None:
    assert held(exam, makes, makes.perfect, makes.truncated) == held(exam, makes, makes.perfect, makes.truncated)


def test_fewer_rows_than_the_suite_make_a_trial_and_another_digest(makes: ModuleType, tmp_path: Path) -> None:
    file = makes.write_rows(tmp_path / "held-out.jsonl", makes.some_questions(10))
    exams = {
        rows: prepare(makes.a_suite(rows=5), makes.PRESETS, file, training=None, rows=rows, seed=0)
        for rows in (None, 3, 5, 8)
    }
    assert {rows: (exam.trial, len(exam.questions)) for rows, exam in exams.items()} == {
        None: (False, 10), 3: (True, 6), 5: (False, 10), 8: (False, 16),
    }  # fmt: skip
    digests = {rows: held(exam, makes, makes.perfect).suite_digest for rows, exam in exams.items()}
    assert digests[None] == digests[5] != digests[3]


def test_a_leak_in_a_row_that_is_not_even_asked_is_refused(makes: ModuleType, tmp_path: Path) -> None:
    questions = makes.some_questions(10)
    file = makes.write_rows(tmp_path / "held-out.jsonl", questions)
    training = [Row(question.prompt, "other", None, f"train.jsonl:{question.line}") for question in questions]
    for leaked in training:
        with pytest.raises(DataError, match=f"also at {leaked.where}"):
            prepare(makes.a_suite(), makes.PRESETS, file, training=[leaked], rows=1, seed=0)


def test_the_base_is_asked_without_the_adapters_tokens(makes: ModuleType) -> None:
    assert {name: preset.token for name, preset in bare(makes.PRESETS).items()} == {"terse": None, "verbose": None}
    assert bare(makes.PRESETS)["terse"].max_new_tokens == makes.PRESETS["terse"].max_new_tokens


def checked(makes: ModuleType, *checks: Check, count: int = 20, **settings: object) -> Exam:
    """An exam of rows with two candidates, the first of them right."""
    rows = [makes.a_question(n, candidates=(f"right {n}", f"wrong {n}"), best=0) for n in range(1, count + 1)]
    suite = Suite(data="d", checks=checks)
    return Exam(suite, makes.PRESETS, rows, 0, trial=False, leaks_checked=True, **settings)  # type: ignore[arg-type]


def judged_by(exam: Exam, makes: ModuleType, likely: Score | None, **settings: object) -> GateReport:
    who = Answerers("it", makes.perfect, makes.count_words, 3, score=likely, **settings)  # type: ignore[arg-type]
    return asyncio.run(hold(exam, who))


async def finds_right(question: Question, texts: Sequence[str]) -> list[float]:
    return [-1.0 if "right" in text else -2.0 for text in texts]


async def finds_wrong(question: Question, texts: Sequence[str]) -> list[float]:
    return [-2.0 if "right" in text else -1.0 for text in texts]


def test_candidates_are_ranked_and_the_reference_scored_without_writing_an_answer(makes: ModuleType) -> None:
    exam = checked(makes, Check(preset="terse", accuracy=0.9, mrr=0.9, perplexity=8))
    report = judged_by(exam, makes, finds_right)
    assert [check.observed for check in report.checks] == pytest.approx([1, 1, math.exp(2)])
    assert report.passed
    answer = report.rows[0].candidate
    assert (answer.generated, answer.likelihoods, answer.reference_nats) == (False, (-1.0, -2.0), 2.0)
    assert [check.observed for check in judged_by(exam, makes, finds_wrong).checks[:2]] == [0, 0.5]


def test_a_re_rankers_answer_is_the_candidate_it_puts_first(makes: ModuleType) -> None:
    exam = checked(makes, Check(preset="terse", accuracy=0.9, max_tokens=5), ranks=True)
    report = judged_by(exam, makes, finds_right)
    assert report.passed
    assert report.rows[0].candidate.text == "right 1"


def test_likelihoods_that_nobody_gives_are_refused_with_the_reason_before_anything_is_asked(makes: ModuleType) -> None:
    exam = checked(makes, Check(preset="terse", perplexity=8, max_tokens=50))
    with pytest.raises(InputError, match="needs log-likelihoods, and no echo here"):
        judged_by(exam, makes, None, cannot_score="no echo here")


@pytest.mark.parametrize("wrong", [[], [math.nan], [-1.0, -1.0]])
def test_likelihoods_that_are_none_end_the_run(makes: ModuleType, wrong: list[float]) -> None:
    async def broken(question: Question, texts: Sequence[str]) -> list[float]:
        return wrong

    with pytest.raises(EngineFailed, match="1 texts were to be scored"):
        judged_by(checked(makes, Check(preset="terse", perplexity=8)), makes, broken)


def test_latency_is_measured_one_at_a_time_and_at_full_load(makes: ModuleType) -> None:
    deadline = Deadline(seconds=30, prompt_tokens=1, new_tokens=1, percentile=95)
    exam = checked(makes, Check(preset="terse", in_time=True), deadline=deadline)
    slow, told = makes.Slow(), []
    who = Answerers("it", slow, makes.count_words, 4)
    report = asyncio.run(hold(exam, who, lambda *step: told.append(step)))
    assert slow.most == 4
    assert [name for name, _, _ in told] == ["it"] * 20 + ["it, one at a time"] * 20
    assert [check.check for check in report.checks] == [
        "come within 30 s, one caller",
        "come within 30 s, 4 callers at once",
    ]
    assert report.passed


def test_a_check_of_candidates_needs_rows_with_candidates(makes: ModuleType, tmp_path: Path) -> None:
    file = makes.write_rows(tmp_path / "rows.jsonl", [makes.a_question()])
    for check, ranks in ((Check(preset="terse", accuracy=0.5), False), (Check(preset="terse", max_tokens=9), True)):
        with pytest.raises(DataError, match="no candidates to choose from"):
            prepare(
                Suite(data="d", checks=(check,)), makes.PRESETS, file, training=None, rows=None, seed=0, ranks=ranks
            )
