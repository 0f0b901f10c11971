"""Another agent's rows among a suite's questions, asked without its token and judged by comparison alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType

import pytest

from onecard.errors import DataError
from onecard.evaluation.exam import Answerers, Exam, hold, prepare
from onecard.evaluation.gate import Absent
from onecard.evaluation.regressions import OtherTask
from onecard.fleet.schema import Check, Preset, Regression, Suite

ELSEWHERE = {"quiz": Preset(token="<Q>", max_new_tokens=9)}


def an_exam(makes: ModuleType, folder: Path, regression: Regression, rows: int | None = None, each: int = 30) -> Exam:
    own = makes.write_rows(folder / "own.jsonl", [makes.a_question(n) for n in range(1, 4)])
    questions = [makes.a_question(n, "quiz", completion=f"the keys of number {n}") for n in range(100, 100 + each)]
    other = OtherTask("quizmaster", regression, makes.write_rows(folder / "other.jsonl", questions), ELSEWHERE)
    suite = Suite(data="own.jsonl", rows=3, checks=(Check(preset="terse", max_tokens=20),))
    return prepare(suite, makes.PRESETS, own, training=[], rows=rows, seed=0, others=[other])


def held(exam: Exam, makes: ModuleType, candidate, base):
    who = Answerers("it", candidate, makes.count_words, 4, {"base": base}, absent={"production": Absent("none", True)})
    return asyncio.run(hold(exam, who))


def test_the_rows_are_asked_under_presets_of_their_own_without_the_token(makes: ModuleType, tmp_path: Path) -> None:
    exam = an_exam(makes, tmp_path, Regression(agent="quizmaster", rows=25))
    assert [q.preset for q in exam.questions] == ["terse"] * 3 + ["quizmaster/quiz"] * 25
    assert exam.presets["quizmaster/quiz"] == Preset(token=None, max_new_tokens=9)
    assert exam.suite.checks[-1].no_worse_than == {"base": 0.05, "production": 0.05}
    assert not exam.trial


def test_a_task_that_was_unlearned_fails_the_gate(makes: ModuleType, tmp_path: Path) -> None:
    exam = an_exam(makes, tmp_path, Regression(agent="quizmaster"), each=60)

    async def unlearned(question):
        other = question.preset.startswith("quizmaster/")
        return await (makes.answering("no idea") if other else makes.perfect)(question)

    kept, lost = held(exam, makes, makes.perfect, makes.perfect), held(exam, makes, unlearned, makes.perfect)
    assert (kept.outcome, lost.outcome) == ("passed", "failed")
    (failed,) = [check for check in lost.checks if not check.passed]
    assert (
        failed.preset == "quizmaster/quiz" and "to be no worse than base by more than 5 points: failed" in failed.why[0]
    )


def test_two_rows_of_another_task_prove_nothing(makes: ModuleType, tmp_path: Path) -> None:
    report = held(an_exam(makes, tmp_path, Regression(data="x", rows=2)), makes, makes.perfect, makes.perfect)
    assert report.outcome == "undecided" and not report.passed


def test_fewer_rows_than_the_regression_says_make_a_trial(makes: ModuleType, tmp_path: Path) -> None:
    exam = an_exam(makes, tmp_path, Regression(agent="quizmaster", rows=25), rows=10)
    assert exam.trial and len(exam.questions) == 13


def test_leaks_are_looked_for_in_other_tasks_too(makes: ModuleType, tmp_path: Path) -> None:
    from onecard.training.rows import Row

    own = makes.write_rows(tmp_path / "own.jsonl", [makes.a_question()])
    leaked = makes.a_question(9, "quiz")
    file = makes.write_rows(tmp_path / "other.jsonl", [leaked])
    suite = Suite(data="own.jsonl", checks=(Check(preset="terse", max_tokens=20),))
    training = [Row(leaked.prompt, "other", None, "train.jsonl:1")]
    with pytest.raises(DataError, match=r"also at train\.jsonl:1"):
        prepare(
            suite, makes.PRESETS, own, training=training, rows=None, seed=0,
            others=[OtherTask("q", Regression(data="x"), file, ELSEWHERE)],
        )  # fmt: skip


def test_two_tasks_of_one_name_are_refused(makes: ModuleType, tmp_path: Path) -> None:
    file = makes.write_rows(tmp_path / "other.jsonl", [makes.a_question(9, "quiz")])
    own = makes.write_rows(tmp_path / "own.jsonl", [makes.a_question()])
    suite = Suite(data="own.jsonl", checks=(Check(preset="terse", max_tokens=20),))
    twice = [OtherTask("q", Regression(data="x"), file, ELSEWHERE)] * 2
    with pytest.raises(DataError, match="two regressions are called q"):
        prepare(suite, makes.PRESETS, own, training=None, rows=None, seed=0, others=twice)
