"""The document of one evaluation: who was judged, on what, by whom it was answered, and every row; written as JSON beside the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from onecard.evaluation.gate import GateReport, RowRecord
from onecard.evaluation.record import Record

SCHEMA = 1


class Judged(Record):
    """What was judged. Of a server by URL only what it says about itself is known."""

    fleet: str
    fleet_digest: str
    agent: str
    adapter: str | None = Field(None, description="name@version; null: the server does not say.")
    digest: str | None = Field(None, description="Of the adapter's files; null: the server does not say.")
    model: str = Field(description="The base's id in the fleet file.")
    quantization: str
    url: str | None = Field(None, description="Where it was asked; null: in this process.")
    engine: str | None = None
    engine_version: str | None = None
    device: str | None = None
    dtype: str | None = None
    base_fingerprint: str | None = None
    tokens_counted_by: Literal["base tokenizer", "server"]
    production: str | None = Field(None, description="Version in production it was compared with; null: with none.")
    production_digest: str | None = None


class EvaluationReport(Record):
    """One evaluation. `trial`: fewer rows were asked than the suite says, so it gives no verdict."""

    schema_version: int = Field(SCHEMA, serialization_alias="schema")
    kind: Literal["evaluation"] = "evaluation"
    started_at: str
    ended_at: str
    onecard_version: str
    judged: Judged
    data: str = Field(description="Name of the file of held-out rows.")
    trial: bool
    leaks_checked: bool = Field(description="Whether the held-out rows were compared with the training rows.")
    harness: dict[str, Any] = Field(default_factory=dict, description="Version and rows of the lm_eval tasks asked.")
    tasks_left_out: bool = Field(False, description="The suite has lm_eval tasks, which are not asked by URL.")
    gate: GateReport


def to_json(report: EvaluationReport) -> str:
    """The document as text with one line per row, so that a person can read it and `diff` can compare it."""
    document = report.model_dump(mode="json", by_alias=True)
    rows = document["gate"].pop("rows")
    lines = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in rows)
    return json.dumps(document, indent=2, ensure_ascii=False)[:-2] + f',\n  "rows": [\n{lines}\n  ]\n}}\n'


def spread(rows: Sequence[RowRecord]) -> list[tuple[str, RowRecord]]:
    """Three answers that show the range, not the best: lowest, middle and highest word overlap with the reference."""
    ordered = sorted(rows, key=lambda row: (row.candidate.overlap, row.line))
    last = len(ordered) - 1
    places = {0: "lowest overlap", last // 2: "middle overlap", last: "highest overlap"}
    return [(places[place], ordered[place]) for place in sorted(places)] if rows else []


def most_telling(gate: GateReport, most: int = 3) -> list[tuple[str, RowRecord]]:
    """Rows to look at: one per check that did not pass, the first that fails by itself; without any, the range of `spread`."""
    shown: dict[tuple[str, int], tuple[str, RowRecord]] = {}
    for check in gate.checks:
        of_preset = {row.line: row for row in gate.rows if row.preset == check.preset}
        for line in check.failing if not check.passed else ():
            if (check.preset, line) not in shown:
                shown[check.preset, line] = (f"not so: {check.check}", of_preset[line])
                break
    return list(shown.values())[:most] or spread(gate.rows)
