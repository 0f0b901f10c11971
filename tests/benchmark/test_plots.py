"""The pictures: drawn for every shape of data, whole, repeatable, and with the figures in their text alternative."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from onecard.adapters.manifest import CurvePoint, TrainingRecord
from onecard.benchmark.picture import themed
from onecard.benchmark.plots import (
    comparison_of_results,
    itl_plot,
    latency_plot,
    pictures,
    prediction_plot,
    throughput_plot,
    ttft_plot,
)
from onecard.benchmark.plots_training import loss_plot
from onecard.benchmark.report_data import Comparison, Extras, Measured, Training, assemble
from onecard.errors import MissingPart
from onecard.evidence.results import ResultFile

Make = Callable[..., ResultFile]


def training(label: str, steps: int) -> Training:
    curve = tuple(CurvePoint(step=n + 1, loss=3 / (n + 1), learning_rate=1e-3) for n in range(steps))
    return Training(
        label=label,
        record=TrainingRecord(
            rows=10, trained_tokens=100, steps=steps, seconds=3, tokens_s=33, peak_memory_bytes=2**29,
            memory_kind="process-rss", curve=curve, hardware="cpu", versions={},
        ),
    )  # fmt: skip


COMPARISONS = (
    Comparison(what="memory", unit="GiB", predicted=0.7, low=0.6, high=0.9, measured=0.75, tag="fitted"),
    Comparison(what="p50", unit="ms", predicted=120, measured=99),
)


def test_every_picture_is_a_whole_svg_and_png(make_result: Make) -> None:
    results = [Measured(name=name, result=make_result(callers=(1, 2, 4))) for name in ("a.json", "b.json")]
    extras = Extras(comparisons=COMPARISONS, trainings=(training("explainer style@v0001", 80), training("quiz", 5)))
    drawn = pictures(assemble(results, [extras]))
    assert [picture.name for picture in drawn] == [
        *("comparison", "latency-1", "throughput-1", "ttft-1", "itl-1"),
        *("latency-2", "throughput-2", "ttft-2", "itl-2", "prediction", "training", "training-rate"),
    ]
    for picture in drawn:
        root = ElementTree.fromstring(picture.svg)
        assert root.tag.endswith("svg")
        assert picture.png.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", picture.png[16:24])
        assert width >= 1000 and height >= 600  # sharp in print
        assert picture.caption and picture.alt


def test_the_same_data_gives_the_same_file(make_result: Make) -> None:
    first, second = (latency_plot(make_result()) for _ in range(2))
    assert first is not None and second is not None
    assert first.svg == second.svg


def test_the_figures_stand_in_the_text_alternative(make_result: Make) -> None:
    picture = latency_plot(make_result(callers=(1, 3)))
    assert picture is not None
    assert "p50 by callers 1: " in picture.alt and ", 3: " in picture.alt and "p95" in picture.alt
    prediction = prediction_plot(COMPARISONS)
    assert prediction is not None
    assert "memory: predicted 0.7, measured 0.75 GiB" in prediction.alt


@pytest.mark.parametrize("callers", [(1,), (1, 2), (1, 2, 4, 8, 16, 32), tuple(range(1, 30))], ids=str)
def test_any_number_of_callers_can_be_drawn(make_result: Make, callers: tuple[int, ...]) -> None:
    result = make_result(callers=callers, repeats=1, requests=4)
    assert latency_plot(result) is not None
    assert throughput_plot(result) is not None


def test_slow_answers_are_in_seconds(make_result: Make) -> None:
    result = make_result(callers=(1, 2), repeats=1, requests=3)
    slow = []
    for step in result.steps:
        rows = [r.model_copy(update={"end_s": r.end_s + 5, "intended_s": r.intended_s}) for r in step.requests]
        slow.append(step.model_copy(update={"requests": tuple(rows)}))
    picture = latency_plot(result.model_copy(update={"steps": tuple(slow)}))
    assert picture is not None
    assert picture.alt.startswith("Latency, s:")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["_$x_{\n\x00\x1b[0m \u4e2d\u6587 \U0001f600 --> <g>", "w" * 200])
def test_any_name_can_be_drawn(make_result: Make, text: str) -> None:
    result = make_result(callers=(1, 2), repeats=1)
    compared = Comparison(what=text, unit=text, predicted=1234, low=1000, high=2000, measured=1500)
    for picture in (
        comparison_of_results([(text, result), (text, result)]),
        prediction_plot([compared]),
        loss_plot([training(text, 3)]),
    ):
        assert picture is not None
        ElementTree.fromstring(themed(picture))


def test_what_cannot_be_drawn_is_left_out(make_result: Make) -> None:
    empty = make_result(callers=(1,), repeats=1, requests=1).model_copy(update={"steps": ()})
    assert [latency_plot(empty), throughput_plot(empty), ttft_plot(empty), itl_plot(empty)] == [None] * 4
    assert prediction_plot(()) is None
    assert loss_plot((training("one point", 1),)) is None
    assert comparison_of_results([("a", make_result())]) is None
    few = make_result(callers=(1,), repeats=1, requests=3)
    assert ttft_plot(few) is None  # 19 values or fewer say nothing about their tails
    assert pictures(assemble([])) == []


def test_without_tokens_only_requests_are_drawn(make_result: Make) -> None:
    result = make_result(callers=(1, 2), repeats=1, requests=2)
    silent = [
        step.model_copy(update={"requests": tuple(r.model_copy(update={"new_tokens": None}) for r in step.requests)})
        for step in result.steps
    ]
    picture = throughput_plot(result.model_copy(update={"steps": tuple(silent)}))
    assert picture is not None
    assert "requests/s" in picture.alt and "tokens/s" not in picture.alt


def test_without_matplotlib_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch, make_result: Make) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPart) as caught:
        pictures(assemble([Measured(name="a", result=make_result())]))
    assert "onecard[plots]" in str(caught.value.next_step)
