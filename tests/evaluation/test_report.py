from __future__ import annotations

import asyncio
import json
from types import ModuleType

from onecard.evaluation.exam import Answerers, Exam, hold
from onecard.evaluation.gate import GateReport, RowRecord
from onecard.evaluation.report import EvaluationReport, Judged, spread, to_json


def a_report(gate: GateReport) -> EvaluationReport:
    judged = Judged(
        fleet="f", fleet_digest="0" * 64, agent="writer", adapter="style@v0001", digest="1" * 64, model="embedded:mini",
        quantization="nf4", tokens_counted_by="base tokenizer",
    )  # fmt: skip
    return EvaluationReport(
        started_at="2026-11-21T12:00:00+00:00", ended_at="2026-11-21T12:01:00+00:00", onecard_version="1", judged=judged,
        data="held-out.jsonl", trial=False, leaks_checked=True, gate=gate,
    )  # fmt: skip


def a_gate(makes: ModuleType, each: int = 4) -> GateReport:
    exam = Exam(makes.a_suite(), makes.PRESETS, makes.some_questions(each), 0, trial=False, leaks_checked=True)
    return asyncio.run(hold(exam, Answerers("it", makes.truncated, makes.count_words, 2, {"base": makes.wrong_style})))


def test_the_document_has_every_row_on_a_line_of_its_own(makes: ModuleType) -> None:
    report = a_report(a_gate(makes))
    text = to_json(report)
    document = json.loads(text)
    assert (document["schema"], document["kind"]) == (1, "evaluation")
    assert len(document["rows"]) == 8
    for row in document["rows"]:
        assert sum(json.dumps(row["prompt"]) in line for line in text.splitlines()) == 1


def test_nothing_is_lost_in_the_document(makes: ModuleType) -> None:
    report = a_report(a_gate(makes))
    document = json.loads(to_json(report))
    gate = GateReport.model_validate({**document["gate"], "rows": document["rows"]})
    assert gate == report.gate


def test_hostile_text_survives_the_document(makes: ModuleType) -> None:
    gate = a_gate(makes)
    text = 'quote " brace } new\nline \u2028 \x1b[31m "rows": [] \U0001f600'
    row = gate.rows[0].model_copy(update={"prompt": text})
    report = a_report(gate.model_copy(update={"rows": (row, *gate.rows[1:])}))
    assert json.loads(to_json(report))["rows"][0]["prompt"] == text


def with_overlap(rows: tuple[RowRecord, ...], values: list[float]) -> list[RowRecord]:
    return [
        row.model_copy(update={"candidate": row.candidate.model_copy(update={"overlap": value})})
        for row, value in zip(rows, values, strict=False)
    ]


def test_samples_show_the_worst_too(makes: ModuleType) -> None:
    rows = with_overlap(a_gate(makes).rows, [0.9, 0.1, 0.5, 0.7, 0.3])
    shown = [(place, row.candidate.overlap) for place, row in spread(rows)]
    assert shown == [("lowest overlap", 0.1), ("middle overlap", 0.5), ("highest overlap", 0.9)]


def test_few_rows_are_shown_once_each(makes: ModuleType) -> None:
    rows = with_overlap(a_gate(makes).rows, [0.2, 0.4])
    assert [row.candidate.overlap for _, row in spread(rows)] == [0.2, 0.4]
    assert len(spread(rows[:1])) == 1
    assert spread([]) == []
