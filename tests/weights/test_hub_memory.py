"""What is remembered of a hub: the same thing, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.weights.headers import HeaderSummary
from onecard.weights.hub_memory import HubModel, memory_folder, remember, remembered

HUB = "https://hub.example"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = HubModel(
    id="org/x",
    host="hub.example",
    commit=COMMIT,
    config={"model_type": "llama", "rope": {"theta": 1e4}, "layers": [1, None, True]},
    headers=HeaderSummary(2, 3, {"BF16": 10, "F32": 4}, 6, 1, 2, 1),
    read_on="2026-11-21",
)

pytestmark = pytest.mark.usefixtures("own_environment")


def files() -> list[Path]:
    return sorted(file for file in memory_folder(HUB, "org/x").rglob("*") if file.is_file())


def test_it_comes_back_by_branch_and_by_commit() -> None:
    remember(HUB, "main", MODEL)
    assert remembered(HUB, "org/x", "main") == MODEL == remembered(HUB, "org/x", COMMIT)
    assert remembered(HUB, "org/x", "dev") is None
    assert remembered(HUB, "org/y", "main") is None
    assert remembered("https://other.example", "org/x", "main") is None
    assert [file.name for file in files()] == [f"{COMMIT}.json", "main"]


def test_a_branch_with_a_slash_stays_in_its_folder() -> None:
    remember(HUB, "refs/pr/1", MODEL)
    assert remembered(HUB, "org/x", "refs/pr/1") == MODEL
    assert {file.parent.name for file in files()} == {"models--org--x", "refs"}


def test_without_a_commit_nothing_is_kept() -> None:
    remember(HUB, "main", HubModel("org/x", "hub.example", None, {}, None, "2026-11-21"))
    assert not memory_folder(HUB, "org/x").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_damaged_memory_is_the_truth_or_nothing(data: st.DataObject) -> None:
    remember(HUB, "main", MODEL)
    file = files()[data.draw(st.integers(0, 1))]
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] = data.draw(st.integers(0, 255))
    else:
        del content[place:]
    file.write_bytes(bytes(content))
    assert remembered(HUB, "org/x", "main") in (MODEL, None)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", '{"format": 1}', '{"format": 9, "sha256": "", "body": "{}"}'])
def test_a_memory_of_another_kind_is_none(text: str) -> None:
    remember(HUB, "main", MODEL)
    (memory_folder(HUB, "org/x") / f"{COMMIT}.json").write_text(text)
    assert remembered(HUB, "org/x", "main") is None


def test_a_memory_of_another_model_under_this_name_is_none() -> None:
    remember(HUB, "main", MODEL)
    place = memory_folder(HUB, "org/x") / f"{COMMIT}.json"
    remember(HUB, "main", HubModel("org/y", "hub.example", COMMIT, {}, None, "2026-11-21"))
    place.write_bytes((memory_folder(HUB, "org/y") / f"{COMMIT}.json").read_bytes())
    assert json.loads(place.read_bytes())["format"] == 1
    assert remembered(HUB, "org/x", "main") is None


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    remember(HUB, "main", MODEL)
    assert remembered(HUB, "org/x", "main") is None
