"""The shipped examples load, and their data splits keep test terms out of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet

FLEETS = sorted(file.name for file in examples_folder().glob("*.yaml"))


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (examples_folder() / "data" / name).read_text().splitlines()]


def test_there_is_one_example_for_every_document() -> None:
    wanted = {"demo", "justnews-rtx3090", "local-rtx3070", "qa-mi300x", "newsreader-rtx3090", "style-a10g"}
    assert {Path(name).stem for name in FLEETS} == wanted


@pytest.mark.parametrize("name", FLEETS)
def test_an_example_loads_and_its_files_exist(name: str) -> None:
    loaded = load_fleet(examples_folder() / name)
    for agent, spec in loaded.fleet.agents.items():
        if spec.recipe:
            assert loaded.data_file(agent).is_file()
        if spec.suite:
            assert loaded.existing(spec.suite.data, f"agents.{agent}.suite.data").is_file()


def test_the_style_set_is_document_es() -> None:
    train = rows("style-train.jsonl")
    assert len(train) == 1600
    assert sum(row["preset"] == "terse" for row in train) == 800
    for row in train:
        if any(word in row["prompt"].lower() for word in ("detailed", "well-structured")):
            assert row["preset"] == "verbose"
        if any(word in row["prompt"].lower() for word in ("briefly", "concise")):
            assert row["preset"] == "terse"


@pytest.mark.parametrize("kind", ["style", "questions", "answers", "synthesis"])
def test_no_test_completion_is_ever_trained_on(kind: str) -> None:
    trained = {row["completion"] for row in rows(f"{kind}-train.jsonl")}
    assert trained.isdisjoint(row["completion"] for row in rows(f"{kind}-test.jsonl"))


def test_every_reranking_row_has_its_best_among_the_candidates() -> None:
    for row in rows("rerank-train.jsonl") + rows("rerank-test.jsonl"):
        assert 0 <= row["best"] < len(row["candidates"]) == 4
