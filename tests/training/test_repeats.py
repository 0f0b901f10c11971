"""Rows that stand there more than once: the counts, the thresholds on both sides, and the gate's own rule for held-out rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import DataError
from onecard.evaluation import leaks
from onecard.evaluation.questions import Question
from onecard.fleet.recipe import DataChecksSection
from onecard.training.repeats import find_repeats, plain, read_held_out
from onecard.training.rows import Row, scan_rows

LONG = "one two three four five six seven eight"


def rows(*said: tuple[str, str]) -> list[Row]:
    return [Row(prompt, told, None, f"rows.jsonl:{number}") for number, (prompt, told) in enumerate(said, start=1)]


def test_a_row_that_repeats_another_is_named_with_it():
    made = rows(("p", "c"), ("q", "c"), ("p", "c"), ("p", "c"))
    repeats = find_repeats(made)
    assert [(one.where, one.at) for one in repeats.duplicates] == [
        ("rows.jsonl:3", "rows.jsonl:1"),
        ("rows.jsonl:4", "rows.jsonl:1"),
    ]
    assert not repeats.conflicts and not repeats.leaks


@pytest.mark.parametrize(("share", "faulty"), [(0.5, False), (0.49, True), (0, True), (1, False)])
def test_the_recipes_share_decides_between_fault_and_warning(share, faulty):
    limits = DataChecksSection(duplicates=share)
    repeats = find_repeats(rows(("p", "c"), ("p", "c")))
    said = "1 of 2 rows (50.0%) repeat another row word for word: :2 and :1"
    assert [fault.problem for fault in repeats.faults(limits)] == [said] * faulty
    assert [remark.problem for remark in repeats.remarks(limits)] == [said] * (not faulty)


def test_a_row_is_the_same_only_with_preset_and_turns_and_rejected_answer():
    (one,) = rows(("p", "c"))
    others = [replace(one, preset="terse"), replace(one, rejected="r"), replace(one, completion="d")]
    others.append(replace(one, turns=(("system", "s"), ("user", "p"), ("assistant", "c"))))
    assert not find_repeats([one, *others]).duplicates
    spelled_out = replace(one, turns=(("user", "p"), ("assistant", "c")))
    assert len(find_repeats([one, spelled_out]).duplicates) == 1, "messages that say what prompt and completion say"


def test_a_prompt_with_several_answers_is_a_warning_with_their_number():
    made = rows(("p", "a"), ("p", "b"), ("q", "a"), ("p", "c"), ("r", "a"), ("r", "b"))
    repeats = find_repeats(made)
    assert [(one.where, one.at) for one in repeats.conflicts] == [
        ("rows.jsonl:2", "rows.jsonl:1"),
        ("rows.jsonl:6", "rows.jsonl:5"),
    ]
    (remark,) = repeats.remarks(DataChecksSection())
    assert remark.problem.startswith("2 prompts are answered in more than one way: :2 and :1")
    assert not repeats.faults(DataChecksSection())
    styled = [made[0], replace(made[1], preset="terse")]
    assert not find_repeats(styled).conflicts, "another preset asks for another answer"
    assert not find_repeats([replace(row, rejected="no") for row in made]).conflicts, "pairs compare many answers"


@pytest.mark.parametrize(("leaks", "faulty"), [(0, True), (1, True), (2, False)])
def test_more_leaks_than_the_recipe_lets_pass_are_a_fault(tmp_path, leaks, faulty):
    file = write(
        tmp_path / "held.jsonl", {"prompt": "What  IS it?", "completion": "x"}, {"prompt": "z", "completion": LONG}
    )
    made = rows(("what is it?", "y"), ("q", LONG.upper()), ("r", "x"))
    limits = DataChecksSection(leaks=leaks)
    repeats = find_repeats(made, read_held_out(file))
    said = f"2 rows also stand in the suite's held-out rows: :1 and {file}:1; :2 and {file}:2"
    assert [fault.problem for fault in repeats.faults(limits)] == [said] * faulty
    assert [remark.problem for remark in repeats.remarks(limits)] == [said] * (not faulty)


def test_every_turn_and_both_answers_of_a_pair_are_compared(tmp_path):
    file = write(tmp_path / "held.jsonl", {"prompt": "second", "completion": LONG})
    (row,) = rows(("p", "c"))
    talk = replace(row, turns=(("user", "first"), ("assistant", "a"), ("user", "second"), ("assistant", "b")))
    pair = replace(row, rejected=LONG)
    assert len(find_repeats([row, talk, pair], read_held_out(file)).leaks) == 2


@given(
    asked=st.sampled_from(["What?", "what?", "WHAT ?", "Who?", "Stra\u00dfe"]),
    held=st.sampled_from(["What?", " what?\n", "Who", "STRASSE"]),
    told=st.sampled_from([LONG, LONG.title(), "short", LONG + " nine"]),
    reference=st.sampled_from([LONG, "short", LONG.replace(" ", "  ")]),
)
def test_the_rule_is_the_gates(tmp_path_factory, asked, held, told, reference):
    file = write(tmp_path_factory.mktemp("held") / "held.jsonl", {"prompt": held, "completion": reference})
    made = rows((asked, told))
    try:
        leaks.refuse_leaks([Question("default", held, reference, file, 1)], made)
        refused = False
    except DataError:
        refused = True
    assert bool(find_repeats(made, read_held_out(file)).leaks) == refused
    assert plain(asked) == leaks._plain(asked) and leaks.SHORT_ANSWER_WORDS == 8


def test_held_out_rows_of_every_kind_are_read(tmp_path):
    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    file = write(
        tmp_path / "held.jsonl",
        {"messages": talk},
        {"prompt": "C", "chosen": "D", "rejected": "E"},
        {"prompt": "F", "candidates": ["G"], "best": 0},
    )
    held = read_held_out(file)
    assert set(held.prompts) == {"a", "c", "f"} and set(held.answers) == {"b", "d"}
    with pytest.raises(DataError, match="not valid JSON"):
        read_held_out(write(tmp_path / "broken.jsonl", {}, text="{"))


@pytest.mark.parametrize("name", ["style", "answers", "questions", "synthesis"])
def test_the_example_data_pass(name):
    data = Path(__file__).parents[2] / "examples" / "data"
    made, faults = scan_rows(data / f"{name}-train.jsonl")
    repeats = find_repeats(made, read_held_out(data / f"{name}-test.jsonl"))
    assert not faults and not repeats.faults(DataChecksSection())


def write(file: Path, *records: object, text: str = "") -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + text)
    return file
