from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import DataError
from onecard.evaluation.questions import Question, pick, read_questions
from onecard.fleet.schema import Check, Suite

PRESETS = ("terse", "verbose", "default")
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


def a_suite(rows: int, *presets: str) -> Suite:
    return Suite(
        data="x.jsonl", rows=rows, checks=tuple(Check(preset=p, max_tokens=9) for p in presets or ("default",))
    )


@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from([None, *PRESETS])), min_size=1, max_size=8))
def test_every_row_comes_back_as_it_was_written(tmp_path_factory, rows: list[tuple[str, str, str | None]]) -> None:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    objects = [{"prompt": p, "completion": c, **({"preset": s} if s else {})} for p, c, s in rows]
    file.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in objects), encoding="utf-8")
    found = read_questions(file, PRESETS)
    assert [question.content for question in found] == [(s or "default", p, c) for p, c, s in rows]
    assert [question.line for question in found] == [1 + 2 * number for number in range(len(rows))]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a row is an object"),
        ('{"prompt": "p"}', "the completion is missing"),
        ('{"prompt": " ", "completion": "c"}', "the prompt is empty"),
        ('{"prompt": 3, "completion": "c"}', "the prompt is not text"),
        ('{"prompt": "\\ud800", "completion": "c"}', "surrogate"),
        ('{"prompt": "p", "completion": "c", "presett": "terse"}', "did you mean 'preset'"),
        ('{"prompt": "p", "completion": "c", "preset": "ters"}', "did you mean 'terse'"),
        ('{"prompt": "p", "completion": "c", "preset": 1}', "the preset is 1"),
        ("[" * 100_000, "not valid JSON"),
        ('{"prompt": "p", "query": "q", "completion": "c"}', "a prompt and a query"),
        ('{"prompt": "p", "completion": "c", "best": 0}', "the best of no candidates"),
        ('{"query": "p", "candidates": "ab", "best": 0}', "candidates is not a list"),
        ('{"query": "p", "candidates": ["a"], "best": 0}', "too few or repeated"),
        ('{"query": "p", "candidates": ["a", "a"], "best": 0}', "too few or repeated"),
        ('{"query": "p", "candidates": ["a", ""], "best": 0}', "the candidates is empty"),
        ('{"query": "p", "candidates": ["a", "b"]}', "best is null"),
        ('{"query": "p", "candidates": ["a", "b"], "best": 2}', "best is 2"),
        ('{"query": "p", "candidates": ["a", "b"], "best": true}', "best is true"),
        ('{"query": "p", "candidates": ["a", "b"], "best": "c"}', 'best is "c"'),
        ('{"prompt": "p", "completion": "c", "accepted": [1]}', "the accepted is not text"),
    ],
)
def test_a_faulty_row_is_named_by_file_and_line(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p", "completion": "c"}\n' + line + "\n")
    with pytest.raises(DataError) as raised:
        read_questions(file, PRESETS)
    assert raised.value.where == f"{file}:2"
    assert problem in str(raised.value)


def test_a_row_without_a_preset_needs_a_default_one(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p", "completion": "c"}')
    with pytest.raises(DataError, match=r"names no preset.*Allowed: terse, verbose"):
        read_questions(file, ("terse", "verbose"))


@pytest.mark.parametrize(("content", "problem"), [(b"", "no rows"), (b"\n \n", "no rows"), (b"\xff\xfe{", "not UTF-8")])
def test_a_file_without_rows_is_an_error(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_questions(file, PRESETS)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    for file in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=r"no such file|cannot be read"):
            read_questions(file, PRESETS)


@given(st.integers(1, 40), st.integers(0, 5), st.integers(1, 40))
def test_picking_is_stable_and_never_more_than_asked(count: int, seed: int, rows: int) -> None:
    questions = [Question("default", f"prompt {n}", "c", Path("f"), n) for n in range(1, count + 1)]
    chosen = pick(questions, a_suite(rows), seed)
    assert chosen == pick(list(questions), a_suite(rows), seed)
    assert len(chosen) == min(rows, count)
    assert [q.line for q in chosen] == sorted(q.line for q in chosen)


def test_one_more_row_displaces_at_most_one(makes: ModuleType) -> None:
    questions = [makes.a_question(number) for number in range(1, 41)]
    before = {q.content for q in pick(questions[:-1], a_suite(10, "terse"), 0)}
    after = {q.content for q in pick(questions, a_suite(10, "terse"), 0)}
    assert len(before - after) <= 1


def test_another_seed_picks_other_rows(makes: ModuleType) -> None:
    questions = makes.some_questions(40)
    assert pick(questions, a_suite(10, "terse"), 0) != pick(questions, a_suite(10, "terse"), 1)


def test_rows_are_picked_for_each_preset_that_a_check_names(makes: ModuleType) -> None:
    questions = makes.some_questions(8)
    assert {q.preset for q in pick(questions, a_suite(3, "terse"), 0)} == {"terse"}
    both = pick(questions, a_suite(3, "terse", "verbose", "terse"), 0)
    assert [sum(q.preset == preset for q in both) for preset in ("terse", "verbose")] == [3, 3]


def test_an_exact_repetition_is_asked_once(makes: ModuleType) -> None:
    first = makes.a_question(1)
    chosen = pick([first, makes.a_question(2), replace(first, line=3)], a_suite(9, "terse"), 0)
    assert [q.line for q in chosen] == [1, 2]


def test_a_check_whose_preset_has_no_row_is_an_error(makes: ModuleType) -> None:
    with pytest.raises(DataError, match=r"no row has the preset 'default'.*Allowed: terse, verbose"):
        pick(makes.some_questions(2), a_suite(3), 0)


def test_a_row_of_candidates_names_the_best_by_number_or_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"query": "q", "candidates": ["a", "b"], "best": best} for best in (1, "b")]
    rows.append({"prompt": "p", "completion": "so", "candidates": ["a", "b"], "best": 0, "accepted": ["thus"]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_questions(file, PRESETS)
    assert [(q.prompt, q.completion, q.best) for q in found] == [("q", "b", 1), ("q", "b", 1), ("p", "so", 0)]
    assert found[2].accepted == ("thus",)
