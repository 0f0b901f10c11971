from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from onecard.errors import DataError
from onecard.evaluation.leaks import refuse_leaks
from onecard.training.rows import Row


def test_files_with_nothing_in_common_pass(makes: ModuleType) -> None:
    refuse_leaks(makes.some_questions(3), [Row("Define a heap.", "A heap is a tree.", None, "train.jsonl:1")])


@pytest.mark.parametrize("written", ["{}", " {}\n", "{}\t"])
def test_a_prompt_in_both_names_both_lines(makes: ModuleType, written: str) -> None:
    question = makes.a_question(7)
    leaked = Row(written.format(question.prompt.upper()), "Something else.", None, "train.jsonl:12")
    with pytest.raises(DataError, match=r"the prompt of line 7 is also at train.jsonl:12") as raised:
        refuse_leaks([question], [leaked])
    assert raised.value.where == "held-out.jsonl"
    assert raised.value.next_step


def test_a_long_answer_in_both_is_a_leak(makes: ModuleType) -> None:
    question = makes.a_question(2, "verbose")
    with pytest.raises(DataError, match=r"the answer of line 2 is also at train.jsonl:4"):
        refuse_leaks([question], [Row("Another prompt.", question.completion, None, "train.jsonl:4")])


def test_a_short_answer_may_rightly_recur(makes: ModuleType) -> None:
    refuse_leaks([makes.a_question(1, completion="Yes.")], [Row("Is it?", "yes.", None, "train.jsonl:1")])


def test_many_leaks_are_counted_not_all_named(makes: ModuleType) -> None:
    questions = makes.some_questions(6)
    rows = [Row(q.prompt, "x", None, f"train.jsonl:{q.line}") for q in questions]
    with pytest.raises(DataError, match="and 7 more"):
        refuse_leaks(questions, rows)


def test_the_examples_do_not_leak() -> None:
    from onecard.evaluation.questions import read_questions
    from onecard.training.rows import scan_rows

    data = Path(__file__).parents[2] / "examples" / "data"
    for name in ("style", "questions", "answers", "synthesis"):
        questions = read_questions(data / f"{name}-test.jsonl", ("default", "terse", "verbose"))
        refuse_leaks(questions, scan_rows(data / f"{name}-train.jsonl")[0])
