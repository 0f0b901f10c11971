"""What a report is made of: extras are joined, errors are computed, a wrong file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from onecard.benchmark.report_data import (
    Comparison,
    Extras,
    GateLine,
    Measured,
    Sample,
    SampleAnswer,
    assemble,
    read_extras,
)
from onecard.errors import ResultError
from onecard.evidence.results import ResultFile


def test_the_error_is_relative_to_the_measurement() -> None:
    high = Comparison(what="memory", unit="GiB", predicted=1.2, low=0.9, high=1.3, measured=1.0)
    assert high.error == pytest.approx(0.2)
    assert high.within_range is True
    assert Comparison(what="p50", unit="ms", predicted=80, low=70, high=90, measured=100).within_range is False
    nothing = Comparison(what="x", unit="ms", predicted=1, measured=0)
    assert (nothing.error, nothing.within_range) == (None, None)


def test_extras_are_joined_in_order_and_the_last_title_wins(make_result: Callable[..., ResultFile]) -> None:
    gate = GateLine(agent="a", check="c", observed="o", passed=True)
    data = assemble(
        [Measured(name="r.json", result=make_result(callers=(1,), repeats=1))],
        [
            Extras(title="first", intro="kept", gates=(gate,), environment={"a": "1", "b": "1"}),
            Extras(title="second", gates=(gate.model_copy(update={"agent": "b"}),), environment={"b": "2"}),
            Extras(),
        ],
    )
    assert (data.title, data.intro, data.environment) == ("second", "kept", {"a": "1", "b": "2"})
    assert [line.agent for line in data.gates] == ["a", "b"]
    assert data.measured[0].name == "r.json"


def test_extras_survive_a_file(tmp_path: Path) -> None:
    extras = Extras(
        title="t",
        comparisons=(Comparison(what="m", unit="GiB", predicted=1, measured=2, tag="fitted"),),
        samples=(Sample(question="q", answers=(SampleAnswer(label="terse", text="a"),)),),
    )
    file = tmp_path / "extras.json"
    file.write_text(extras.model_dump_json())
    assert read_extras(file) == extras


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ('{"titel": "x"}', "not a report extra"),
        ('{"samples": [{"question": "q", "answers": []}]}', "samples"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "extras.json"
    file.write_text(text)
    with pytest.raises(ResultError, match=problem) as caught:
        read_extras(file)
    assert str(file) in str(caught.value.where)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no such file"):
        read_extras(tmp_path / "nope.json")
