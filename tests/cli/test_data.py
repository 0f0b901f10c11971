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
    assert sample["where"] == f"{file}:1" and sample["side"] is None
    text = "<s>[INST] <STYLE_TERSE> What is a mutex? [/INST] A lock.</s>"
    assert "".join(part["text"] for part in sample["parts"]) == text
    assert "".join(part["text"] for part in sample["parts"] if part["learned"]) == " A lock.</s>"
    special = [part["text"] for part in sample["parts"] if part["special"]]
    assert special == ["<s>[INST]", "<STYLE_TERSE>", "[/INST]", "</s>"]


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


def test_everything_stands_in_the_json(tmp_path):
    held = write(tmp_path / "held.jsonl", {"prompt": "WHAT is a mutex?", "completion": "x"})
    other = {**GOOD, "completion": "A door."}
    file = write(tmp_path / "rows.jsonl", GOOD, GOOD, other, {"prompt": "p"})
    record = json.loads(run(file, "--suite", held, "--json").output)
    assert [row["where"] for row in record["rows"]] == [f"{file}:{n}" for n in (1, 2, 3)]
    first = record["rows"][0]
    assert first["total"] == first["prompt"] + first["trained"] == first["longest"] and first["end_of_turn_trained"]
    assert sum(bin["rows"] for bin in record["histogram"]) == 3
    assert [fault["where"] for fault in record["faults"]] == [f"{file}:4", f"{file}:2", f"{file}:1"]
    assert all({"problem", "allowed", "next_step"} <= fault.keys() for fault in record["faults"])
    assert record["duplicates"] == [{"where": f"{file}:2", "at": f"{file}:1"}]
    assert record["conflicting_prompts"] == [{"where": f"{file}:3", "at": f"{file}:1"}]
    assert [leak["at"] for leak in record["leaks"]] == [f"{held}:1"] * 3
    assert "more than one way" in record["warnings"][0]["problem"]
    assert record["template"]["template_writes_bos"] is True


def test_warnings_are_shown_and_stop_nothing(tmp_path):
    done = run(write(tmp_path / "rows.jsonl", GOOD, {**GOOD, "completion": "A door."}))
    assert done.return_value == 0 and "no faults, 1 warning" in done.output
    assert "warning: " in done.output and "answered in more than one way" in done.output


def test_the_suite_of_an_agent_is_compared(tmp_path):
    suite = "\n    suite: {data: held.jsonl, checks: [{preset: terse, max_tokens: 9}]}\n"
    (tmp_path / "fleet.yaml").write_text(FLEET.rstrip() + suite)
    write(tmp_path / "held.jsonl", GOOD)
    file = write(tmp_path / "rows.jsonl", GOOD)
    done = run(file, "--fleet", str(tmp_path / "fleet.yaml"), "--agent", "writer")
    assert done.exception is None, done.exception
    assert done.return_value == 1 and "held-out rows" in done.output


def test_a_csv_a_conversation_and_a_preference_file_are_checked_without_a_word_about_their_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path is cut where it heads a row
    (tmp_path / "rows.csv").write_text("prompt,completion,preset\nWhat?,That.,\n")
    done = run("rows.csv")
    assert done.return_value == 0 and "rows.csv:2 (" in done.output
    turns = [{"role": role, "content": f"turn {n}"} for n, role in enumerate(["user", "assistant"] * 2)]
    done = run(write(tmp_path / "talk.jsonl", {"messages": turns}))
    assert done.return_value == 0
    assert "[INST] turn 0 [/INST] turn 1</s>[INST] turn 2 [/INST] turn 3</s>" in done.output
    write(tmp_path / "pairs.jsonl", {"prompt": "What?", "chosen": "That.", "rejected": "This."})
    done = run("pairs.jsonl")
    assert done.return_value == 0 and "pairs.jsonl:1 chosen (" in done.output and "1 rejected (" in done.output


def test_a_named_recipe_decides_what_rows_it_takes(tmp_path):
    file = write(tmp_path / "pairs.jsonl", {"prompt": "What?", "chosen": "That.", "rejected": "This."})
    done = run(file, "--recipe", "qlora")
    assert isinstance(done.exception, DataError) and "method is sft" in done.exception.problem


def test_the_limit_reads_the_first_rows_only(tmp_path):
    done = run(write(tmp_path / "rows.jsonl", GOOD, "{", "{"), "--limit-rows", "1")
    assert done.return_value == 0 and "1 of 1" in done.output


def test_a_long_row_is_shown_by_its_beginning_and_its_end(tmp_path):
    file = write(tmp_path / "rows.jsonl", {**GOOD, "completion": "first " + "word " * 400 + "last"})
    shown = run(file).output
    assert "first word" in shown and "word last</s>" in shown and len(shown) < 4000
    (sample,) = json.loads(run(file, "--json").output)["samples"]
    assert sum(len(part["text"]) for part in sample["parts"]) > 2000, "scripts get the whole row"


def test_the_number_of_samples_is_asked_for(tmp_path):
    file = write(tmp_path / "rows.jsonl", *({**GOOD, "completion": "word " * n} for n in range(1, 9)))
    assert len(json.loads(run(file, "--json", "--samples", "5").output)["samples"]) == 5
    assert "reads" not in run(file, "--samples", "0").output


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
