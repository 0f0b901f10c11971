"""The document of one evaluation: who was judged, on what, by whom it was answered, and every row; written as JSON beside the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

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
