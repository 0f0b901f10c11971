"""metrics.jsonl: read as far as it is whole, refused by line, and matched with a curve by the steps' own figures."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.adapters.manifest import CurvePoint
from onecard.benchmark.report_training import read_metrics, same_run
from onecard.errors import ResultError
from onecard.training.metrics import FILE, Metrics


def test_what_a_run_writes_is_read_back(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.write(
        1, loss=2.5, learning_rate=1e-3, tokens_s=10.5, memory_bytes=1 << 20, validation_loss=None, preferred=0.5
    )
    metrics.write(2, loss=1.5, validation_loss=1.75)
    metrics.close()
    first, second = read_metrics(tmp_path / FILE)
    assert (first.loss, first.learning_rate, first.tokens_s, first.memory_bytes) == (2.5, 1e-3, 10.5, 1 << 20)
    assert (second.step, second.validation_loss, second.tokens_s) == (2, 1.75, None)


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert [point.step for point in read_metrics(tmp_path / FILE)] == [1]


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ('{"step": 1, "loss": 2}\nnothing\n', ":2", "not the figures"),
        ('{"prompt": "a", "completion": "b"}\n', ":1", "not the figures"),
        ('{"step": 2, "loss": 2}\n{"step": 2, "loss": 1}\n', ":2", "step 2 comes after step 2"),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_line(tmp_path: Path, text: str, where: str, problem: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ResultError) as refused:
        read_metrics(tmp_path / FILE)
    assert str(refused.value.where).endswith(where) and problem in refused.value.problem


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no such file"):
        read_metrics(tmp_path / FILE)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(content)
    with suppress(ResultError):
        read_metrics(file)


def test_the_same_losses_at_another_speed_are_another_run(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.5, "tokens_s": 10.5}, {"step": 2, "loss": 1.5, "tokens_s": 11.0}]
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = read_metrics(tmp_path / FILE)
    curve = [CurvePoint(learning_rate=1e-3, **line) for line in lines]
    assert same_run(points, curve)
    assert not same_run(points, [curve[0], curve[1].model_copy(update={"tokens_s": 11.1})])
    assert not same_run(points[:1], curve) and not same_run((), ())
