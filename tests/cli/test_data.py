"""`onecard data check` as a person or a script sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from onecard.cli.data import data
from onecard.cli.main import main
from onecard.errors import DataError, UnknownName

GOOD = {"prompt": "What is a mutex?", "completion": "A lock.", "preset": "terse"}
FLEET = """
name: small
card: {vram_gib: 4, bandwidth_gbs: 20}
models: {base: {id: "embedded:mini", quantization: nf4}}
agents:
  writer:
    model: base
    recipe: {added_tokens: ["<STYLE_TERSE>"]}
    presets: {terse: {token: "<STYLE_TERSE>"}}
"""


def write(file: Path, *rows: object) -> str:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(file)


def run(*arguments: str):
    return CliRunner().invoke(data, ["check", *arguments], standalone_mode=False)


def test_good_rows_are_counted_shown_and_pass(tmp_path):
    done = run(write(tmp_path / "rows.jsonl", GOOD, {**GOOD, "prompt": "What is a [bold]queue[/bold]?"}))
    assert done.return_value == 0
    assert "2 of 2" in done.output and "no faults" in done.output
    assert "<s>[INST] What is a mutex? [/INST] A lock.</s>" in done.output
    assert "What is a [bold]queue[/bold]?" in done.output, "nothing in a row is markup"
    assert max(map(len, done.output.splitlines())) <= 100


def test_presets_of_an_agent_put_their_tokens(tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)
    file = write(tmp_path / "rows.jsonl", GOOD)
    done = run(file, "--fleet", str(tmp_path / "fleet.yaml"), "--agent", "writer", "--json")
    (sample,) = json.loads(done.output)["samples"]
    assert sample == {
        "where": f"{file}:1",
        "prompt": "<s>[INST] <STYLE_TERSE> What is a mutex? [/INST]",
        "learned": " A lock.</s>",
    }


def test_every_faulty_row_is_listed_and_the_exit_code_is_one(tmp_path):
    file = write(tmp_path / "rows.jsonl", GOOD, {"prompt": "p"}, "{", {**GOOD, "completion": "a</s>"})
    done = run(file, "--json")
    record = json.loads(done.output)
    assert done.return_value == 1
    assert [fault["where"] for fault in record["faults"]] == [f"{file}:{n}" for n in (2, 3, 4)]
    assert record["summary"]["rows"] == 1 and record["summary"]["faults"] == 3
    shown = run(file)
    assert shown.return_value == 1 and "the completion is missing" in shown.output


def test_many_faults_are_counted_after_the_first_ten(tmp_path):
    done = run(write(tmp_path / "rows.jsonl", *["{"] * 25))
    assert done.output.count("fault: ") == 10 and "and 15 more faults" in done.output


def test_control_characters_never_reach_the_terminal(tmp_path):
    done = run(write(tmp_path / "rows.jsonl", {"prompt": "a\x1b[2Jb", "completion": "c\x07"}))
    assert "\x1b[2J" not in done.output and "\x07" not in done.output


def test_recipes_limit_applies(tmp_path):
    (tmp_path / "short.yaml").write_text("max_length: 16\n")
    done = run(
        write(tmp_path / "rows.jsonl", {**GOOD, "completion": "a lock " * 20}), "--recipe", str(tmp_path / "short.yaml")
    )
    assert done.return_value == 1 and "at most 16" in done.output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(["none.jsonl"], DataError), (["ROWS", "--model", "embedded:maxi"], UnknownName)],
)
def test_what_cannot_be_read_is_an_error(tmp_path, arguments, error):
    file = write(tmp_path / "rows.jsonl", GOOD)
    done = run(*(file if a == "ROWS" else a for a in arguments))
    assert isinstance(done.exception, error)


def test_wrong_use_exits_with_two(tmp_path, capsys):
    file = write(tmp_path / "rows.jsonl", GOOD)
    assert main(["data", "check", file, "--agent", "writer"]) == 2
    assert "--fleet and --agent go together" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "none.jsonl")]) == 2
