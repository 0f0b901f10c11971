"""Prompts are read with file and line in every complaint, and drawn in an order that only the seed and the repeat decide."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.prompts import Prompt, Prompts, draw, given_prompts, read_prompts, shipped_prompts
from onecard.errors import DataError


def test_rows_keep_their_line_and_preset(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", "preset": "terse", "completion": "x"}\n\n{"prompt": "b"}\n')
    prompts = read_prompts(file)
    assert prompts.rows == (Prompt(0, "a", "terse"), Prompt(2, "b", None))
    assert prompts.source == "p.jsonl"


def test_line_separators_inside_a_prompt_do_not_split_the_row(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a\u2028b"}\n', encoding="utf-8")
    assert [row.text for row in read_prompts(file).rows] == ["a\u2028b"]


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ('{"prompt": "a"}\n{"prompt": ', ":2", "not JSON"),
        ('{"prompt": "a"}\n{"completion": "b"}', ":2", "no text"),
        ('{"prompt": "  "}', ":1", "no text"),
        ('["a"]', ":1", "no text"),
        ('{"prompt": "a", "preset": 3}', ":1", "preset is 3"),
        ("\n \n", "p.jsonl", "no prompts"),
        ("", "p.jsonl", "no prompts"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, where: str, problem: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        read_prompts(file)
    assert str(caught.value.where).endswith(where)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "nope.jsonl")


TEN = given_prompts([f"question {n}" for n in range(10)], "ten")


@given(callers=st.integers(1, 8), requests=st.integers(1, 12), seed=st.integers(0, 99), repeat=st.integers(0, 5))
def test_every_caller_gets_its_share_in_a_repeatable_order(callers: int, requests: int, seed: int, repeat: int) -> None:
    drawn = draw({"a": TEN}, (), callers, requests, seed, repeat)
    assert [len(own) for own in drawn] == [requests] * callers
    assert drawn == draw({"a": TEN}, (), callers, requests, seed, repeat)


@given(seed=st.integers(0, 99))
def test_more_callers_are_asked_the_same_questions_first(seed: int) -> None:
    one = draw({"a": TEN}, ("x", "y"), 1, 20, seed, 1)
    four = draw({"a": TEN}, ("x", "y"), 4, 5, seed, 1)
    assert one[0] == [four[n % 4][n // 4] for n in range(20)]


def test_no_question_is_asked_twice_before_all_were_asked_once() -> None:
    texts = [question.prompt.text for question in draw({"a": TEN}, (), 1, 10, 7, 1)[0]]
    assert sorted(texts) == sorted(row.text for row in TEN.rows)


def test_seeds_and_repeats_change_the_order() -> None:
    orders = {
        tuple(q.prompt.row for q in draw({"a": TEN}, (), 1, 10, seed, repeat)[0])
        for seed in (0, 1)
        for repeat in (1, 2)
    }
    assert len(orders) == 4


def test_agents_and_presets_share_the_load_equally() -> None:
    drawn = [q for own in draw({"a": TEN, "b": TEN}, ("x", "y"), 4, 6, 0, 1) for q in own]
    assert Counter((q.agent, q.preset) for q in drawn) == {("a", "x"): 6, ("a", "y"): 6, ("b", "x"): 6, ("b", "y"): 6}


def test_rows_own_presets_are_used_and_a_wanted_preset_picks_its_rows() -> None:
    rows = Prompts((Prompt(0, "t", "terse"), Prompt(1, "v", "verbose"), Prompt(2, "n")), "mixed")
    own = {(q.prompt.text, q.preset) for q in draw({"a": rows}, (), 1, 3, 0, 1)[0]}
    assert own == {("t", "terse"), ("v", "verbose"), ("n", None)}
    assert {(q.prompt.text, q.preset) for q in draw({"a": rows}, ("terse",), 1, 4, 0, 1)[0]} == {
        ("t", "terse"),
        ("n", "terse"),
    }
    alone = Prompts(rows.rows[1:2], "verbose only")
    assert {(q.prompt.text, q.preset) for q in draw({"a": alone}, ("terse",), 1, 2, 0, 1)[0]} == {("v", "terse")}


def test_the_digest_tells_prompt_sets_apart() -> None:
    assert TEN.sha256 != shipped_prompts().sha256
    assert given_prompts(["a", "b"], "x").sha256 == given_prompts(["a", "b"], "y").sha256


def test_images_are_carried_as_data_urls(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"\x89PNG")
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a", "images": ["page.png", "data:image/gif;base64,R0"], "max_new_tokens": 9}\n{"prompt": "b"}\n'
    )
    first, second = read_prompts(file).rows
    assert first.images == ("data:image/png;base64,iVBORw==", "data:image/gif;base64,R0") and first.max_new_tokens == 9
    assert second.images == ()
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert read_prompts(plain).sha256 == given_prompts(["a", "b"], "x").sha256 != read_prompts(file).sha256


@pytest.mark.parametrize(
    ("row", "said"),
    [('"images": "x.png"', "images is"), ('"images": ["nope.png"]', "cannot be read"), ('"images": ["x.txt"]', "not called as an image"),
     ('"max_new_tokens": 0', "max_new_tokens is 0")],
)  # fmt: skip
def test_broken_images_are_said_with_their_line(tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", ' + row + "}\n")
    with pytest.raises(DataError, match=said) as caught:
        read_prompts(file)
    assert str(caught.value.where).endswith("p.jsonl:1")
