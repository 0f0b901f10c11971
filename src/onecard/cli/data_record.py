"""`onecard data check --json`: the whole ledger as plain data, every row, fault and warning."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from onecard.cli.data_samples import samples_of

if TYPE_CHECKING:
    from onecard.training.preparation import Prepared


def record_of(source: str, prepared: Prepared, samples: int) -> dict[str, object]:
    """Lengths in tokens; places are file:line, or source:row for what has no lines."""
    ledger = prepared.ledger
    return {
        "file": source,
        "sha256": prepared.facts.sha256,
        "summary": ledger.summary(),
        "template": prepared.template,
        "histogram": [{"from": low, "to": high, "rows": rows} for low, high, rows in ledger.histogram()],
        "faults": [
            {"where": fault.where, "problem": fault.problem, "allowed": fault.allowed, "next_step": fault.next_step}
            for fault in ledger.faults
        ],
        "warnings": [asdict(warning) for warning in ledger.warnings],
        "duplicates": [asdict(repeat) for repeat in ledger.repeats.duplicates],
        "conflicting_prompts": [asdict(repeat) for repeat in ledger.repeats.conflicts],
        "leaks": [asdict(repeat) for repeat in ledger.repeats.leaks],
        "samples": [asdict(sample) for sample in samples_of(prepared, samples)],
        "rows": [{**asdict(row), "total": row.total} for row in ledger.rows],
    }
