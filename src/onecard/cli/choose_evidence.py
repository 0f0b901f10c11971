"""What is claimed and what was measured of an option, cell by cell: claims with their verdicts, and figures of result files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from onecard.catalog.cards import Card, find_card
from onecard.cli.choose_candidates import FORMS
from onecard.cli.claims_check import Checked
from onecard.cli.claims_check import check as checked
from onecard.errors import CatalogError, ResultError
from onecard.evidence.claims import Claim, Measured, Quantity, claims_about
from onecard.evidence.results import ResultFile, Step, read_results
from onecard.evidence.summaries import latency_ms, shown_percentile, summarize, ttfts_ms
from onecard.planner.option import Option, Place

if TYPE_CHECKING:
    from onecard.evaluation.report import EvaluationReport

# The column a claim belongs to; claims of other quantities are told below the table.
COLUMNS: dict[Quantity, str] = {
    "memory_gib": "memory", "fits": "left", "headroom_gib": "left", "latency_s": "latency", "p50_ms": "latency",
    "context_tokens": "context", "training_memory_gib": "peak", "training_hours": "training", "training_usd": "dollars",
    "fully_open": "licence", "licence": "licence",
}  # fmt: skip
OF_ANY_FORM: tuple[Quantity, ...] = ("fully_open", "licence", "exists", "context_tokens")
OF_TRAINING = ("peak", "training", "dollars")
SURER = ("refuted", "confirmed", "unknown")  # of several claims about one cell, the telling one is shown


@dataclass(frozen=True)
class Evidence:
    """Result files by name, evaluations by name, and the claims that may be about a candidate. `folder`: what claims' paths start from."""

    claims: Sequence[Claim] = ()
    results: Sequence[tuple[str, ResultFile]] = ()
    evaluations: Sequence[tuple[str, EvaluationReport]] = ()
    folder: Path = Path()
    judged: dict[Claim, Checked] = field(default_factory=dict)

    def about(self, option: Option, place: Place, fleet_name: str) -> list[Checked]:
        """Claims about this option on this card, each judged once."""
        of_it = claims_about(self.claims, model=option.id, card=place.card.id) if "/" in option.id else []
        present = place.fleet.models[place.key]
        if (option.id, option.quantization) == (present.id, present.quantization):
            of_it += [
                claim for claim in self.claims if claim.subject.fleet == fleet_name and claim.subject.model is None
            ]
        rows = []
        for claim in of_it:
            if _is_about(claim, option):
                if claim not in self.judged:
                    self.judged[claim] = checked(claim, self.folder, self.results, remarks=False)
                rows.append(self.judged[claim])
        return rows


def read_evidence(files: Iterable[Path], claims: Sequence[Claim], folder: Path) -> Evidence:
    """Result files of `onecard bench` and reports of `onecard evaluate`. ResultError for anything else."""
    results: list[tuple[str, ResultFile]] = []
    evaluations: list[tuple[str, EvaluationReport]] = []
    for file in files:
        report = _evaluation(file)
        if report is None:
            results.append((str(file), read_results(file)))
        else:
            evaluations.append((str(file), report))
    results.sort(key=lambda named: named[1].started_at)
    evaluations.sort(key=lambda named: named[1].started_at)
    return Evidence(claims, results, evaluations, folder)


def with_measurements(option: Option, place: Place, evidence: Evidence) -> Option:
    """The option with what result files say of it; later files replace earlier ones, unless only the earlier decides."""
    found: dict[str, Measured] = {}
    for name, result in evidence.results:
        for column, seen in _seen(option, place, name, result).items():
            if seen.decides or not (column in found and found[column].decides):
                found[column] = seen
    own = [(name, report) for name, report in evidence.evaluations if report.judged.agent == place.agent]
    for name, report in own:
        last = own[-1][1].gate.suite_digest  # answers to other questions cannot be compared
        quality = _quality(option, name, report) if report.gate.suite_digest == last else None
        if quality is not None:
            found["quality"] = quality
    return replace(option, measured=found) if found else option


def by_column(rows: Iterable[Checked]) -> Mapping[str, Checked]:
    """The most telling claim of each column: of many callers before one of a lone caller, refuted before confirmed."""
    found: dict[str, Checked] = {}
    for row in sorted(rows, key=lambda row: (row.claim.subject.callers == 1, SURER.index(row.judgement.verdict))):
        found.setdefault(COLUMNS.get(row.claim.quantity, ""), row)
    found.pop("", None)
    return found


def _is_about(claim: Claim, option: Option) -> bool:
    """Whether the claim is of the same form, engine, shape of requests, callers and recipe, as far as it says."""
    subject, column = claim.subject, COLUMNS.get(claim.quantity)
    if subject.checkpoint is not None:
        return FORMS.get(subject.checkpoint) == option.quantization
    if (claim.quantity in OF_ANY_FORM and subject.quantization is None) or subject.fleet is not None:
        return subject.agent in (None, option.agent)
    if column in OF_TRAINING:
        run = option.training
        same_form = run is not None and subject.quantization in (None, run.recipe.base_quantization)
        return run is not None and same_form and subject.recipe in (None, run.recipe.name)
    if (subject.quantization or "none") != option.quantization or subject.engine not in ("auto", option.engine):
        return False
    speed = option.speed
    if subject.callers not in (None, 1, option.fleet.models[option.key].concurrency):
        return False
    if column == "latency" and speed is not None:
        shape = (subject.prompt_tokens or speed.prompt_tokens, subject.new_tokens or speed.new_tokens)
        return shape == (speed.prompt_tokens, speed.new_tokens)
    return True


def _seen(option: Option, place: Place, name: str, result: ResultFile) -> dict[str, Measured]:
    """Times and memory of a service with this model in this form and as many callers.

    A time decides on the same card and engine for answers as long as the agent's; memory never does.
    """
    what, speed = result.what, option.speed
    callers = option.fleet.models[option.key].concurrency
    if (what.model or "").lower() != option.id.lower() or what.quantization != option.quantization or speed is None:
        return {}
    if result.how.load != "closed" or result.kind == "context":
        return {}  # callers of an open loop are what was under way, not who asked
    steps = [step for step in result.steps if step.callers == callers]
    same = _is_card(result.where.card, place.card) and what.engine in (None, option.engine)
    same = same and result.how.max_new_tokens == speed.new_tokens
    figures = _figures(steps, speed.percentile)
    machine = result.where.card or result.where.cpu
    return {
        column: Measured(
            value=value, machine=machine, date=result.started_at[:10], record=name, decides=same and column != "memory"
        )
        for column, value in figures.items()
        if value is not None
    }


def _figures(steps: Sequence[Step], percent: float) -> dict[str, float | None]:
    """The agent's percentile and the median first token over all repeats, and the most memory held."""
    answered = [request for step in steps for request in step.requests if request.outcome == "ok"]
    late = shown_percentile([latency_ms(request) for request in answered], percent)
    first = shown_percentile(ttfts_ms(answered), 50)
    held = [memory for step in steps if (memory := summarize(step).gpu_mem_gib) is not None]
    return {
        "latency": late / 1000 if late is not None else None,
        "first": first / 1000 if first is not None else None,
        "memory": max(held, default=None),
    }


def _quality(option: Option, name: str, report: EvaluationReport) -> Measured | None:
    """Mean overlap of the agent's answers with the references of its suite; a trial says nothing."""
    judged = report.judged
    same = judged.model.lower() == option.id.lower() and judged.quantization == option.quantization
    if report.trial or not same or not report.gate.rows:
        return None
    overlap = sum(row.candidate.overlap for row in report.gate.rows) / len(report.gate.rows)
    note = f"suite {report.gate.suite_digest[:12]}: {'passed' if report.gate.passed else 'failed'} its gate"
    machine = judged.device or judged.url or "not said"
    return Measured(value=overlap, machine=machine, date=report.started_at[:10], record=name, note=note)


def _evaluation(file: Path) -> EvaluationReport | None:
    """The file as a report of `onecard evaluate`; None when it is something else."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # `read_results` says what is wrong with it
    if not isinstance(document, dict) or document.get("kind") != "evaluation":
        return None
    from onecard.evaluation.report import EvaluationReport

    try:
        rows = document.pop("rows")
        number = document.pop("schema")
        gate = {**document["gate"], "rows": rows}
        return EvaluationReport.model_validate({**document, "schema_version": number, "gate": gate})
    except (KeyError, TypeError, ValidationError):
        raise ResultError(
            "the evaluation is broken",
            where=str(file),
            next_step="run `onecard evaluate` again; reports are not edited",
        ) from None


def _is_card(measured: str | None, card: Card) -> bool:
    try:
        return measured is not None and find_card(measured).id == card.id
    except CatalogError:
        return False
