"""Reading rows: whatever a row holds comes back as it was written, and every fault names its line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import DataError
from onecard.training.rows import Row, data_sha256, scan_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
GOOD = '{"prompt": "p", "completion": "c"}'


@given(
    rows=st.lists(st.tuples(TEXT, TEXT, st.sampled_from([None, "terse"])), min_size=1, max_size=5), ascii=st.booleans()
)
def test_rows_come_back_as_they_were_written(tmp_path_factory, rows, ascii):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        json.dumps({"prompt": p, "completion": c, **({"preset": s} if s else {})}, ensure_ascii=ascii)
        for p, c, s in rows
    ]
    file.write_text("\n".join(lines), encoding="utf-8", newline="")
    read, faults = scan_rows(file, ["terse"])
    assert not faults
    assert [(row.prompt, row.completion, row.preset) for row in read] == rows
    assert [row.where for row in read] == [f"{file}:{number}" for number in range(1, len(rows) + 1)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "p", "completion"', "not valid JSON"),
        ('["p", "c"]', "a row is an object"),
        ('{"prompt": "p"}', "the completion is missing"),
        ('{"completion": "c"}', "the prompt is missing"),
        ('{"prompt": "p", "completion": " \\n"}', "the completion is empty"),
        ('{"prompt": 3, "completion": "c"}', "the prompt is not text"),
        ('{"prompt": "p", "completion": null}', "the completion is not text"),
        ('{"prompt": "p", "completion": "\\ud83d"}', "half a surrogate pair"),
        ('{"promt": "p", "completion": "c"}', "unknown key 'promt' (did you mean 'prompt'?)"),
        ('{"prompt": "p", "completion": "c", "preset": "ters"}', "no preset 'ters' (did you mean 'terse'?)"),
        ('{"prompt": "p", "completion": "c", "preset": 1}', "the preset is 1"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_fault_names_its_line_and_the_good_rows_are_read(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    rows, faults = scan_rows(file, ["terse", "verbose"])
    assert [row.where for row in rows] == [f"{file}:1", f"{file}:4"]
    assert [fault.where for fault in faults] == [f"{file}:3"]
    assert problem in faults[0].problem


def test_any_preset_is_taken_when_none_are_known(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p", "completion": "c", "preset": "odd"}')
    assert scan_rows(file)[0] == [Row("p", "c", "odd", f"{file}:1")]


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match="no rows"):
        scan_rows(file)


def test_a_missing_file_a_folder_and_a_binary_are_errors(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, problem in (
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path, "cannot be read"),
        (binary, "cannot be read"),
    ):
        with pytest.raises(DataError, match=problem):
            scan_rows(path)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    rows, faults = scan_rows(file)
    assert (len(rows), faults) == (2, [])


def test_the_limit_counts_rows_and_reads_no_further(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{GOOD}\n\n{GOOD}\nbroken\n")
    rows, faults = scan_rows(file, limit=2)
    assert (len(rows), faults) == (2, [])


def test_the_digest_follows_content_and_order_and_not_the_place() -> None:
    one, two = Row("p", "c", None, "a:1"), Row("p", "c", "terse", "a:2")
    assert data_sha256([one, two]) == data_sha256([Row("p", "c", None, "b:7"), two])
    assert len({data_sha256([one, two]), data_sha256([two, one]), data_sha256([one])}) == 3


def test_a_conversation_says_what_is_asked_and_answered(tmp_path: Path) -> None:
    said = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    file = tmp_path / "rows.jsonl"
    messages = [{"role": role, "content": content} for role, content in said]
    file.write_text(json.dumps({"messages": messages, "preset": "terse"}))
    (row,), faults = scan_rows(file, ["terse"])
    assert not faults and (row.kind, row.prompt, row.completion, row.preset) == ("chat", "a\n\nc", "b\n\nd", "terse")
    assert row.turns == tuple(said) and row.answers == (2, 4)
    alone = list(row.one_answer_each())
    assert [one.answers for one in alone] == [(2,), (4,)] and alone[0].turns == tuple(said[:3])


def test_a_preference_has_one_answer_that_counts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    prompt = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    plain = {"prompt": "p", "chosen": "c", "rejected": "r"}
    file.write_text(json.dumps(plain) + "\n" + json.dumps({**plain, "prompt": prompt}))
    (one, two), _ = scan_rows(file)
    assert (one.kind, one.prompt, one.completion, one.rejected, one.turns) == ("preference", "p", "c", "r", ())
    assert two.kind == "preference" and two.answers == (3,) and two.prompt == "u\n\nu"


def test_the_digest_knows_turns_and_rejected_answers() -> None:
    plain = Row("p", "c", None, "a:1")
    others = [Row("p", "c", None, "a:1", rejected="r"), Row("p", "c", None, "a:1", turns=(("user", "p"),))]
    assert len({data_sha256([row]) for row in (plain, *others)}) == 3
    assert data_sha256([plain]) == hashlib.sha256(b'["p", "c", null]\n').hexdigest(), "manifests hold such digests"
