"""Files of every format: the same rows come out of each as they went in, with the line or row they stand at."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import DataError, MissingPart
from onecard.training.row_files import records, written_by_hand
from onecard.training.rows import read_rows, scan_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    str.strip
)
RECORD = st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT})
RECORDS = st.lists(RECORD, min_size=1, max_size=5)
GOOD = {"prompt": "p", "completion": "c"}
TALK = {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


@given(rows=RECORDS, indent=st.sampled_from([None, 0, 2]), gap=st.sampled_from(["", "\n", " \r\n\t"]))
def test_a_json_array_comes_back_with_its_lines(tmp_path_factory, rows, indent, gap):
    file = tmp_path_factory.mktemp("rows") / "rows.json"
    file.write_text(gap + json.dumps(rows, indent=indent) + gap, encoding="utf-8", newline="")
    found = list(records(file))
    assert [record for _, record in found] == rows
    lines = file.read_bytes().decode().split("\n")
    for where, record in found:
        rest = "\n".join(lines[int(where.rpartition(":")[2]) - 1 :])
        start = json.dumps(record, indent=indent).split("\n")[0]
        assert start in rest.split("\n")[0], "the record begins in the line that is named"


@given(rows=RECORDS, terminator=st.sampled_from(["\n", "\r\n"]))
def test_csv_comes_back_with_its_lines(tmp_path_factory, rows, terminator):
    file = tmp_path_factory.mktemp("rows") / "rows.csv"
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["prompt", "completion"], lineterminator=terminator, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    wheres = []
    for row in rows:
        # a reader of the csv module counts "\r\n", "\n" and a lone "\r" inside quotes as line ends
        wheres.append(len(io.StringIO(text.getvalue(), newline=None).read().split("\n")))
        writer.writerow(row)
    file.write_text(text.getvalue(), encoding="utf-8", newline="")
    read, faults = scan_rows(file)
    assert not faults and [{"prompt": r.prompt, "completion": r.completion} for r in read] == rows
    assert [int(row.where.rpartition(":")[2]) for row in read] == wheres


@given(rows=RECORDS)
def test_parquet_comes_back_with_its_row_numbers(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    assert list(records(file)) == [(f"{file}:{number}", row) for number, row in enumerate(rows, start=1)]


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_data_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("rows")
    for name in ("a.csv", "a.json", "a.jsonl", "a.parquet"):
        (folder / name).write_bytes(content)
        try:
            scan_rows(folder / name)
        except DataError as error:
            assert str(folder / name) in str(error.where)


@given(st.text('[]{},:"\\ \nabp1', max_size=60))
def test_what_json_takes_for_an_array_is_read_and_nothing_else(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("rows") / "a.json"
    file.write_text(f"[{text}]")
    try:
        expected = json.loads(f"[{text}]")
    except ValueError:
        expected = None
    found = [record for _, record in records(file)]
    faulty = any(isinstance(record, DataError) for record in found)
    assert faulty == (expected is None)
    if expected is not None:
        assert found == expected


@pytest.mark.parametrize(
    ("name", "content", "where", "problem"),
    [
        ("a.csv", "prompt,completion\np,c\np,c,x\n", 3, "the row has 3 cells and the header 2"),
        ("a.csv", 'prompt,completion\n"p\n\nq",c\np,\n', 5, "the completion is empty"),
        ("a.csv", 'prompt,completion\np,"c', 2, "not valid CSV"),
        ("a.csv", "prompt,completion,mood\np,c,x\n", 2, "unknown key 'mood'"),
        ("a.csv", "prompt,chosen,rejected\np,c,c\n", 2, "the same answer"),
        ("a.json", '[\n{"prompt": "p", "completion": "c"},\n{"prompt": "p"}\n]', 3, "the completion is missing"),
        ("a.json", '[\n{"prompt": "p", "completion": "c"},\n{"prompt": nope}\n]', 3, "not valid JSON"),
        ("a.json", '[\n{"prompt": "p", "completion": "c"}\n{"prompt": "p"}]', 2, "neither a comma nor the end"),
        ("a.json", '[\n{"prompt": "p", "completion": "c"}', 2, "neither a comma nor the end"),
        ("a.json", '[\n{"prompt": "p", "completion": "c"}]\n\nmore', 4, "followed by something else"),
        ("a.json", '[\n{"prompt": "p", "completion": "c"},\n', 2, "nothing after the comma"),
        ("a.json", '[\n{"prompt": "p", "completion": "c"},]', 2, "nothing after the comma"),
        ("a.json", json.dumps(GOOD) + "\n{}\n", 2, "the prompt is missing"),
        ("a.jsonl", json.dumps(TALK) + '\n{"messages": []}\n', 2, "no list of turns"),
        ("a.jsonl", json.dumps(PAIR) + '\n{"prompt": "p", "chosen": "c"}\n', 2, "the rejected is missing"),
        ("a.jsonl", json.dumps({**TALK, "preset": 3}), 1, "the preset is 3"),
        ("a.jsonl", json.dumps({**TALK, "prompt": "p"}), 1, "unknown key 'prompt'"),
    ],
)
def test_every_fault_has_its_line(tmp_path, name, content, where, problem):
    (tmp_path / name).write_text(content)
    _, (fault,) = scan_rows(tmp_path / name)
    assert problem in fault.problem and fault.where == f"{tmp_path / name}:{where}"


@pytest.mark.parametrize(
    ("header", "problem"),
    [("prompt,answer", "the header is prompt,answer"), ("prompt,completion,prompt", "names a column twice")],
)
def test_a_header_that_nobody_reads_is_told_with_what_is_allowed(tmp_path, header, problem):
    (tmp_path / "a.csv").write_text(f"{header}\nx,y\n")
    with pytest.raises(DataError, match=problem) as error:
        scan_rows(tmp_path / "a.csv")
    assert error.value.where == f"{tmp_path / 'a.csv'}:1"


def test_an_empty_preset_in_a_table_is_none_and_long_cells_are_read(tmp_path):
    long = "word " * 40_000
    (tmp_path / "a.csv").write_text(f"prompt,completion,preset\np,c,\np,{long},terse\n")
    rows, faults = scan_rows(tmp_path / "a.csv", ["terse"])
    assert not faults and [row.preset for row in rows] == [None, "terse"] and rows[1].completion == long
    assert csv.field_size_limit() == 131072, "the limit of the process is as it was"


@pytest.mark.parametrize("record", [GOOD, TALK, PAIR], ids=["prompt-completion", "chat", "preference"])
def test_every_kind_is_read_from_every_format_that_holds_it(tmp_path, record):
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "a.json").write_text(json.dumps([record]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / "a.parquet")
    datasets.Dataset.from_list([record]).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=datasets.Dataset.from_list([record])).save_to_disk(tmp_path / "splits")
    kinds = set()
    for name in ("a.jsonl", "a.json", "a.parquet", "saved", "splits"):
        (row,), faults = scan_rows(tmp_path / name)
        assert not faults and row.where == f"{tmp_path / name}:1"
        kinds.add((row.kind, row.prompt, row.completion, row.rejected))
    assert len(kinds) == 1


def test_columns_of_data_sets_made_elsewhere_are_named_and_in_hand_written_files_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**GOOD, "source": "x"}]), tmp_path / "a.parquet")
    scan = read_rows(tmp_path / "a.parquet")
    assert (len(scan.rows), scan.unread) == (1, {"source"})
    (tmp_path / "a.jsonl").write_text(json.dumps({**GOOD, "source": "x"}))
    assert "unknown key 'source'" in scan_rows(tmp_path / "a.jsonl")[1][0].problem
    assert not written_by_hand("hub:a/b") and written_by_hand("a.csv")


def test_a_folder_without_the_split_and_a_broken_parquet_are_errors(tmp_path):
    datasets.DatasetDict(test=datasets.Dataset.from_list([GOOD])).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="no split 'train'"):
        scan_rows(tmp_path / "splits")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        scan_rows(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no such file"):
        scan_rows(tmp_path / "none.parquet")


@pytest.mark.parametrize(("missing", "source"), [("pyarrow", "a.parquet"), ("datasets", "hub:own/rows")])
def test_a_missing_library_names_the_install_line(tmp_path, monkeypatch, missing, source):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingPart, match="is not installed") as error:
        scan_rows(source)
    assert error.value.next_step == "pip install 'onecard[local]'"


def test_the_limit_reads_no_further_than_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,completion\np,c\np,c\n"broken')
    rows, faults = scan_rows(tmp_path / "a.csv", limit=2)
    assert (len(rows), faults) == (2, [])
