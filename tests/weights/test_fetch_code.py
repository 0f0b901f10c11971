"""A choice to fetch code is written down once for each commit, and a broken record is no choice."""

from __future__ import annotations

from pathlib import Path

from onecard.weights.fetch import Listing, RemoteFile
from onecard.weights.fetch_code import NAME, read_choices, record_choice

CODE = RemoteFile("modeling_x.py", 3, "b" * 40)


def listing(commit: str) -> Listing:
    return Listing("org/name", "main", commit * 40, (CODE,))


def test_a_choice_says_what_at_which_commit_and_when(tmp_path: Path) -> None:
    file = record_choice(listing("a"), [CODE], tmp_path)
    record_choice(listing("a"), [CODE], tmp_path)
    record_choice(listing("c"), [CODE], tmp_path)
    said = read_choices("org/name", tmp_path)
    assert [one["commit"][0] for one in said] == ["a", "c"]
    assert said[0]["files"] == {"modeling_x.py": "b" * 40}
    assert said[0]["allowed_at"].startswith("20") and "--allow-code org/name" in said[0]["by"]
    assert file.parent == tmp_path / "models--org--name"


def test_no_record_and_a_broken_one_are_no_choice(tmp_path: Path) -> None:
    assert read_choices("org/name", tmp_path) == []
    (tmp_path / "models--org--name").mkdir()
    (tmp_path / "models--org--name" / NAME).write_text('{"choices": 3}')
    assert read_choices("org/name", tmp_path) == []
