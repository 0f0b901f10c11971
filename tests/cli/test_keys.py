"""`onecard keys`: shown once, listed by its beginning, removed by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onecard.cli.main import main
from onecard.serving.keys import KeyRing


def test_a_key_is_shown_once_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    where = ["--file", str(file)]
    assert main(["keys", "list", *where]) == 0
    assert "no keys" in capsys.readouterr().out
    assert main(["keys", "add", "newsroom", "--scope", "infer:writer", "--scope", "admin", *where]) == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    key = KeyRing(file).find(secret)
    assert key is not None and key.scopes == ("infer:writer", "admin") and "not shown again" in shown.err
    assert main(["keys", "list", *where]) == 0
    listed = capsys.readouterr().out
    assert "newsroom" in listed and secret[:12] in listed and secret not in listed
    assert main(["keys", "list", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)[0]["scopes"] == ["infer:writer", "admin"]
    assert main(["keys", "remove", "newsroom", *where]) == 0
    assert KeyRing(file).find(secret) is None


def test_a_script_gets_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    assert main(["keys", "add", "a", "--scope", "infer:*", "--json", "--file", str(file)]) == 0
    assert KeyRing(file).find(json.loads(capsys.readouterr().out)["key"]) is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "a", "--scope", "everything"], "infer:<agent>"),
        (["add", "a"], "--scope"),
        (["add", "a b", "--scope", "admin"], "no name"),
        (["remove", "nobody"], "no key 'nobody'"),
    ],
)
def test_mistakes_say_what_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["keys", *arguments, "--file", str(tmp_path / "keys.json")]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
