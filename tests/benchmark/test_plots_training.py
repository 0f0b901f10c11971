"""The pictures of training: drawn from what is known, in one colour a run, with the figures in their text alternative."""

from __future__ import annotations

from xml.etree import ElementTree

from onecard.adapters.manifest import CurvePoint, TrainingRecord
from onecard.benchmark.picture import ORANGE, VERMILLION
from onecard.benchmark.plots_training import loss_plot, memory_plot, rate_plot, running_mean, speed_plot, training_plots
from onecard.benchmark.report_data import Training
from onecard.benchmark.report_training import StepFigures


def steps(count: int, **more: object) -> tuple[StepFigures, ...]:
    return tuple(
        StepFigures(step=n, loss=3 / n, learning_rate=2e-3 / n, tokens_s=100 + n, memory_bytes=n << 20, **more)
        for n in range(1, count + 1)
    )


def record(**more: object) -> TrainingRecord:
    curve = tuple(CurvePoint(step=n, loss=3 / n, learning_rate=1e-3) for n in range(1, 6))
    return TrainingRecord(
        rows=10, trained_tokens=100, steps=5, seconds=3, tokens_s=33, peak_memory_bytes=2**29, memory_kind="process-rss",
        curve=curve, hardware="cpu", versions={}, **more,
    )  # fmt: skip


def test_a_run_with_all_figures_has_four_pictures() -> None:
    drawn = training_plots([Training(label="a", points=steps(60)), Training(label="b", record=record())])
    assert [picture.name for picture in drawn if picture] == [
        *("training", "training-rate", "training-speed", "training-memory"),
    ]
    for picture in drawn:
        assert picture is not None and ElementTree.fromstring(picture.svg).tag.endswith("svg")


def test_the_text_alternatives_have_the_figures() -> None:
    told = [Training(label="style@v0001", points=steps(6))]
    said = [picture.alt for picture in training_plots(told) if picture]
    assert said == [
        "Training loss: style@v0001 from 3.00 to 0.50.",
        "Highest rate: style@v0001 0.002.",
        "Mean tokens a second: style@v0001 104.",
        "Memory: style@v0001 at most 6 MiB.",
    ]


def test_a_run_keeps_its_colour_where_another_has_nothing_to_show() -> None:
    told = [Training(label="manifest only", record=record()), Training(label="told", points=steps(6))]
    memory = memory_plot(told)
    assert memory is not None and VERMILLION in memory.svg and ORANGE not in memory.svg


def test_rows_kept_out_and_the_planned_peak_are_said_where_there_are_any() -> None:
    plain = Training(label="a", points=steps(6))
    kept = Training(label="a", record=record(planned_peak_bytes=5 << 20), points=steps(6, validation_loss=1.0))
    pictures = [loss_plot([plain]), loss_plot([kept]), memory_plot([plain]), memory_plot([kept])]
    captions = [picture.caption for picture in pictures if picture]
    assert ["kept out" in caption for caption in captions[:2]] == [False, True]
    assert ["the plan expected" in caption for caption in captions[2:]] == [False, True]


def test_validation_of_the_manifest_is_shown_without_metrics() -> None:
    told = loss_plot([Training(label="a", record=record(validation=((3, 0.9), (5, 0.8))))])
    assert told is not None and "kept out" in told.caption


def test_nothing_is_drawn_of_nothing() -> None:
    single, bare = Training(label="a", points=steps(1)), Training(label="b", record=record())
    assert training_plots([]) == training_plots([single]) == [None] * 4
    assert speed_plot([bare]) is None and memory_plot([bare]) is None and rate_plot([bare]) is not None


def test_running_mean() -> None:
    assert running_mean([1, 2, 3, 4, 5], 3) == [1.5, 2, 3, 4, 4.5]
    assert running_mean([1, 2], 1) == [1, 2]
    assert running_mean([], 3) == []
