"""What people read: the worst first, nothing wider than the terminal, commands whole on one line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onecard.catalog.units import GIB
from onecard.cli import doctor_output
from onecard.cli.doctor_output import record_of, show
from onecard.cli.doctor_records import Active, Facts, Finding, Machine, Packages, Place, Port

FACTS = Facts(
    Machine(None, (), None, GIB, GIB, 0, 0, None),
    Packages("3.11.7", {}, {}),
    (Place("models", Path("/cache"), "default", 1, 2, "1"),),
    (),
    Port(8700, False),
    token=False,
    active=Active(Path(".active_model"), "a", names=frozenset({"b", "a"})),
)
LONG = "a rather long sentence about [red]what[/red] was seen, " * 4
FINDINGS = (
    Finding(
        "problem", "disk", LONG, "because " + LONG, "rm " + " ".join(f"/cache/file-{n}" for n in range(20)), rights=True
    ),
    Finding("warning", "port", "taken", "it is needed", "kill 7"),
    Finding("ok", "card", "no card"),
    Finding("ok", "versions", "9 packages as pinned"),
)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    paper = io.StringIO()

    def console(**options: Any) -> Console:
        return Console(**options, width=request.param, file=paper, force_terminal=True, color_system=None)

    monkeypatch.setattr(doctor_output, "Console", console)
    show(FACTS, FINDINGS, "small")
    return paper.getvalue()


@pytest.mark.parametrize("shown", [80, 120], indirect=True)
def test_the_worst_first_and_commands_on_one_line(shown: str) -> None:
    lines = shown.splitlines()
    assert lines[0] == "small on this machine: 1 problem, 1 warning"
    assert shown.index("problem: ") < shown.index("warning: taken") < shown.index("fine: no card; 9 packages as pinned")
    assert f"  $ {FINDINGS[0].mend}" in lines and "  $ kill 7" in lines
    assert "[red]what[/red]" in shown
    assert shown.count("needs administrator rights") == 1


@pytest.mark.parametrize(("shown", "width"), [(80, 80), (120, 120), (300, 120)], indirect=["shown"])
def test_nothing_but_commands_is_wider_than_the_terminal(shown: str, width: int) -> None:
    assert max(len(line) for line in shown.splitlines() if "$" not in line) <= width


def test_the_record_is_json_with_paths_and_sets_in_order() -> None:
    record = json.loads(json.dumps(record_of(FACTS, FINDINGS)))
    assert record["worst"] == "problem" and [one["severity"] for one in record["findings"]] == [
        "problem",
        "warning",
        "ok",
        "ok",
    ]
    assert record["facts"]["active"]["names"] == ["a", "b"] and record["facts"]["places"][0]["path"] == "/cache"
