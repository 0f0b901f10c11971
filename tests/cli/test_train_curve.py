"""The loss in a line of blocks, and the picture that never undoes a run."""

from __future__ import annotations

import io
import sys

import pytest

from onecard.cli.train_curve import BLOCKS, SPARKS, draw_curve, sparkline


@pytest.fixture(autouse=True)
def utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))


def test_from_highest_to_lowest() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == BLOCKS[::-1]
    assert sparkline([2.0, 2.0, 2.0]) == BLOCKS[0] * 3
    assert sparkline([1.0]) == sparkline([]) == ""


def test_long_curves_are_averaged_into_the_columns() -> None:
    line = sparkline([3.0] * 100 + [1.0] * 100)
    assert line == BLOCKS[-1] * (SPARKS // 2) + BLOCKS[0] * (SPARKS // 2)


def test_a_terminal_without_such_letters_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert sparkline([2.0, 1.0]) == ""


def test_without_matplotlib_the_reason_is_handed_back(monkeypatch, tmp_path) -> None:
    from types import SimpleNamespace

    from onecard.adapters.manifest import CurvePoint, TrainingRecord

    record = TrainingRecord(
        rows=1, trained_tokens=1, steps=2, seconds=1, tokens_s=1, peak_memory_bytes=1, hardware="", versions={},
        memory_kind="process-rss", curve=tuple(CurvePoint(step=n, loss=1, learning_rate=1) for n in (1, 2)),
    )  # fmt: skip

    def stored(record: TrainingRecord) -> SimpleNamespace:
        return SimpleNamespace(agent="a", name="b", version="v0001", manifest=SimpleNamespace(run=record))

    assert draw_curve(tmp_path, stored(record)) is None and (tmp_path / "loss.png").is_file()
    short = record.model_copy(update={"curve": record.curve[:1]})
    assert draw_curve(tmp_path, stored(short)) == "one step makes no curve"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "onecard[plots]" in str(draw_curve(tmp_path, stored(record)))
