"""A claim beside its evidence: predicted by the planner, measured by a result file or a record, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onecard.catalog.cards import find_card
from onecard.cli.claims_predictions import Prediction, predict
from onecard.cli.claims_remarks import remark
from onecard.errors import CatalogError
from onecard.evidence.claims import Claim, Judgement, Measured, deciding, verdict
from onecard.evidence.results import ResultFile
from onecard.evidence.summaries import StepSummary, summarize


@dataclass(frozen=True)
class Checked:
    """One claim with what is known of it."""

    claim: Claim
    prediction: Prediction
    measured: Measured | None
    judgement: Judgement
    remark: str | None = None


def check(
    claim: Claim, folder: Path, results: Sequence[tuple[str, ResultFile]] = (), *, remarks: bool = True
) -> Checked:
    """The claim judged by what is known now. `results`: (file name, content) of measurements that may be of the same thing."""
    prediction = predict(claim, folder)
    measured = deciding(claim, measurements(claim, results))
    judged = verdict(claim, prediction.predicted, measured, missing=prediction.missing)
    said = remark(claim, prediction, judged, folder) if remarks else None
    return Checked(claim, prediction, measured, judged, said)


def measurements(claim: Claim, results: Iterable[tuple[str, ResultFile]]) -> list[Measured]:
    """Steps of result files that measured the claim's model, form and number of callers.

    A time decides on the same card for answers of the claimed length. Memory never does: a result file does not say for how long
    requests the service kept room.
    """
    subject, found = claim.subject, []
    for name, result in results:
        what = result.what
        if (what.model or "").lower() != (subject.model or "?").lower() or what.quantization != subject.quantization:
            continue
        if result.how.load != "closed" or result.kind == "context":
            continue  # callers of an open loop are what was under way, not who asked
        same = _same_card(result.where.card, subject.card) and subject.new_tokens == result.how.max_new_tokens
        for step in result.steps:
            value = _value(claim, summarize(step))
            if value is not None and step.callers == (subject.callers or 1):
                found.append(
                    Measured(
                        value=value,
                        machine=result.where.card or result.where.cpu,
                        date=result.started_at[:10],
                        record=name,
                        decides=same and claim.quantity != "memory_gib",
                    )
                )
    return found


def _value(claim: Claim, summary: StepSummary) -> float | None:
    if claim.quantity == "latency_s" and summary.p50_ms is not None:
        return summary.p50_ms / 1000
    if claim.quantity == "p50_ms":
        return summary.p50_ms
    if claim.quantity == "tokens_s":
        return summary.tokens_s
    return summary.gpu_mem_gib if claim.quantity == "memory_gib" else None


def _same_card(measured: str | None, claimed: str | None) -> bool:
    if measured is None or claimed is None:
        return False
    try:
        return find_card(measured).id == find_card(claimed).id
    except CatalogError:
        return False
