"""The matrix at every width: nothing is lost, nothing is cut, cells keep level."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from onecard.cli.choose import chosen, known_claims, limits_of, place_of
from onecard.cli.choose_candidates import candidates_of
from onecard.cli.choose_evidence import Evidence
from onecard.cli.choose_output import rows_of
from onecard.cli.choose_table import HEADINGS, Row, columns_of, layout, matrix, short_names
from onecard.fleet.loader import load_fleet

MODELS = "microsoft/phi-4,Qwen/Qwen3-8B,mistralai/Mistral-Nemo-Instruct-2407,nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    loaded = load_fleet(Path(__file__).parent.parent.parent / "examples" / "qa-mi300x.yaml")
    limits = limits_of(None, "any", None, None, False)
    place = place_of(loaded, "question-answerer", limits, None, None, offline=True)
    candidates = candidates_of([MODELS], loaded.folder, "text", offline=True)
    evidence = Evidence(claims=known_claims(loaded), folder=loaded.folder)
    return rows_of(chosen(place, candidates, (), limits, (), evidence), place, evidence, loaded, None)


@pytest.mark.parametrize("width", [76, 80, 100, 120, 140, 200])
def test_every_column_is_in_one_table_and_no_line_is_too_wide(rows: list[Row], width: int):
    tables = layout(rows, width)
    answering, getting = columns_of(rows)
    assert sorted(column for columns in tables for column in columns) == sorted([*answering, *getting])
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for columns in tables:
        console.print(matrix("t", rows, columns, width))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for heading in HEADINGS.values():
        assert sum(heading in line for line in lines) >= 1
    assert not any("…" in line for line in lines)


def test_wide_consoles_have_one_table(rows: list[Row]):
    assert len(layout(rows, 200)) == 1 and len(layout(rows, 100)) > 1


@pytest.mark.parametrize("width", [0, 12, 17, 26, 60])
def test_short_names_keep_to_their_width(rows: list[Row], width: int):
    options = [row.option for row in rows]
    names = short_names(options, width)
    assert set(names) == {option.id for option in options}
    assert all(len(name) <= max(width, 12) for name in names.values())
    assert len(set(names.values())) == len(names)
