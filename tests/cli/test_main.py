"""The command line as a whole: verbs are found, errors are messages, exit codes mean what they say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from onecard.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_with_an_example_and_json_or_a_reason_not_to(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text and f"onecard {verb}" in text
    module, attribute, _ = VERBS[verb]
    command = getattr(importlib.import_module(f"onecard.cli.{module}"), attribute)
    leaves = command.commands.values() if isinstance(command, click.Group) and command.commands else [command]
    if verb not in ("demo", "schema"):  # one is told to people, the other prints JSON and nothing else
        assert all(any("--json" in option.opts for option in leaf.params) for leaf in leaves)


def test_an_unknown_verb_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plann", "x.yaml"]) == 2
    assert "did you mean 'plan'?" in capsys.readouterr().err


def test_a_users_mistake_has_place_and_next_step_and_no_stack_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("name: x\ncard: rtx-3091\nmodels: {base: {id: embedded:mini}}\nagents: {a: {model: base}}\n")
    assert main(["plan", str(fleet)]) == 2
    said = capsys.readouterr().err
    assert "rtx-3091" in said and "rtx-3090" in said and "Traceback" not in said


def test_missing_arguments_are_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "FLEET" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error_of_ours() -> None:
    done = subprocess.run(
        f"{sys.executable} -m onecard schema | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout == "{\n" and "Traceback" not in done.stderr


def test_schema_is_json_that_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert {"name", "card", "models", "agents"} <= set(json.loads(capsys.readouterr().out)["properties"])


def test_a_library_the_plain_install_leaves_out_is_named_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")

    monkeypatch.setattr("onecard.fleet.loader.load_fleet", absent)
    assert main(["serve", "fleet.yaml"]) == 2
    said = capsys.readouterr().err
    assert "uvicorn is not installed" in said and "onecard[local]" in said and "Traceback" not in said
