"""The page's section on training: a line a run with predictions beside measurements, hostile text escaped."""

from __future__ import annotations

from onecard.adapters.manifest import CurvePoint, TrainingRecord
from onecard.benchmark.report import render
from onecard.benchmark.report_data import Training, assemble
from onecard.benchmark.report_runs import training_section
from onecard.benchmark.report_training import StepFigures

HOSTILE = '<script>alert("x")</script>'


def record(**more: object) -> TrainingRecord:
    settings = {
        "rows": 1600, "trained_tokens": 110134, "steps": 2, "seconds": 38, "tokens_s": 3482, "peak_memory_bytes": 1 << 30,
        "memory_kind": "process-rss", "planned_peak_bytes": 3 << 29, "rehearsed_peak_bytes": 1 << 29, "hardware": "two cores",
        "versions": {"torch": "2.13.0"}, "notes": ("went on from step 1",), "packed": True, "forward_tokens": 4096,
        "curve": (CurvePoint(step=1, loss=2.5, learning_rate=1e-3), CurvePoint(step=2, loss=0.5, learning_rate=1e-4)),
    }  # fmt: skip
    return TrainingRecord(**{**settings, **more})


def test_a_run_is_a_line_with_its_predictions_and_how_far_they_were_off() -> None:
    page = render(assemble([], []).model_copy(update={"trainings": (Training(label="style@v0001", record=record()),)}))
    for said in (
        "1,600",
        "110,134",
        "38 s",
        "3,482",
        "2.50 to 0.50",
        "1.50 GiB",
        "+50%",
        "0.50 GiB",
        "-50%",
        "1.00 GiB",
    ):
        assert said in page, said
    for said in ("two cores", "torch 2.13.0", "went on from step 1", "packed, at most 4,096 tokens"):
        assert said in page, said
    assert "rows kept out" not in page


def test_rows_kept_out_have_a_column_only_where_there_are_any() -> None:
    told = Training(label="a", record=record(validation=((2, 0.75),)))
    assert any("rows kept out" in part and "0.75" in part for part in training_section([told], [], None))


def test_a_run_without_a_manifest_shows_what_it_told() -> None:
    points = tuple(StepFigures(step=n, loss=1 / n, tokens_s=50, memory_bytes=n << 20, seconds=n) for n in (1, 2, 3))
    text = "".join(training_section([Training(label=HOSTILE, points=points)], [], HOSTILE))
    for said in ("without its manifest", "<td>3</td>", "3 s", "50.0", "1.00 to 0.33", "3 MiB", "of its steps"):
        assert said in text, said
    assert "<script" not in text


def test_hostile_text_of_a_manifest_stays_text() -> None:
    hostile = record(hardware=HOSTILE, versions={HOSTILE: HOSTILE}, notes=(HOSTILE,), memory_kind=HOSTILE)
    text = "".join(training_section([Training(label=HOSTILE, record=hostile)], [], None))
    assert "<script" not in text and text.count("alert(") >= 6


def test_without_runs_there_is_no_section() -> None:
    assert training_section([], [], "no matplotlib") == []
