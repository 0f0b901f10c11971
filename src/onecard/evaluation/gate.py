"""May this candidate answer users? Pure: the suite's checks and the scored answers in, a report and a verdict out.

A check of the fleet file is taken apart into demands, one figure each. A demand passes by its figure over all answers alone; the
difference to other answerers stands beside it and decides nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from pydantic import Field

from onecard.adapters.manifest import Verdict
from onecard.errors import FleetError
from onecard.evaluation import scorers
from onecard.evaluation.paired import Difference, paired_difference
from onecard.evaluation.questions import Question
from onecard.evaluation.record import Record
from onecard.evaluation.suite import ScoredAnswer
from onecard.fleet.schema import Check, Preset, Suite

Statistic = Literal["share", "mean", "highest"]


class RowRecord(Record):
    """One question, the candidate's answer, and those of whom it is compared with ("base")."""

    line: int
    preset: str
    prompt: str
    reference: str
    candidate: ScoredAnswer
    against: dict[str, ScoredAnswer] = Field(default_factory=dict)


class CheckResult(Record):
    """One demand and its figure. `failing` are lines of the data file whose answers do not keep it by themselves.

    `against` holds, per rival, the mean difference of the answers' values (for a share: 1 kept, 0 not), candidate minus rival.
    """

    preset: str
    check: str
    statistic: Statistic
    asked: int
    observed: float
    threshold: float
    at_least: bool
    passed: bool
    sentence: str
    failing: tuple[int, ...] = ()
    against: dict[str, Difference] = Field(default_factory=dict)


class GateReport(Record):
    """All that was asked, answered and demanded."""

    passed: bool
    suite_digest: str
    seed: int
    checks: tuple[CheckResult, ...]
    rows: tuple[RowRecord, ...]


@dataclass(frozen=True)
class Demand:
    """One figure asked of all answers under one preset; `value` is what one answer adds to it, `means` completes "answers ..."."""

    preset: str
    check: str
    means: str
    statistic: Statistic
    threshold: float
    at_least: bool
    value: Callable[[ScoredAnswer], float]


def judge(suite: Suite, rows: Sequence[RowRecord], digest: str, seed: int) -> GateReport:
    """Every demand of every check on the rows; FleetError for a check without a demand."""
    results = []
    for number, check in enumerate(suite.checks):
        demands = demands_of(check)
        if not demands:
            raise FleetError(
                "the check demands nothing",
                where=f"suite.checks.{number}",
                allowed="max_tokens, min_tokens, overlap, repetition, ends_with",
            )
        results += [_result(demand, [row for row in rows if row.preset == check.preset], seed) for demand in demands]
    passed = all(result.passed for result in results)
    return GateReport(passed=passed, suite_digest=digest, seed=seed, checks=tuple(results), rows=tuple(rows))


def verdict(report: GateReport, *, at: str, digest: str = "", file: str | None = None) -> Verdict:
    """The store's record of a report: bound to the suite's digest and to the adapter's, which the store fills in when empty."""
    summary = {
        "asked": len(report.rows),
        "checks": [
            result.model_dump(mode="json", include={"preset", "check", "asked", "observed", "threshold", "passed"})
            for result in report.checks
        ],
        "failed": [result.sentence for result in report.checks if not result.passed],
    }
    return Verdict(
        passed=report.passed, digest=digest, at=at, suite_digest=report.suite_digest, summary=summary, report=file
    )


def suite_digest(suite: Suite, presets: Mapping[str, Preset], questions: Sequence[Question]) -> str:
    """sha256 hex of everything a verdict depends on beside the answers: checks, presets, the questions asked, the scorers' version.

    The data file's path is left out: the same suite in another folder is the same suite.
    """
    parts: dict[str, Any] = {
        "suite": suite.model_dump(mode="json", exclude={"data"}),
        "presets": {check.preset: presets[check.preset].model_dump(mode="json") for check in suite.checks},
        "questions": [question.content for question in questions],
        "scorers": scorers.SCORERS,
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def demands_of(check: Check) -> list[Demand]:
    """The figures a check asks for: token limits, word overlap, repetition, ending; empty when it asks for none."""
    demands = []
    if check.max_tokens is not None or check.min_tokens is not None:
        limits = _limits_text(check.min_tokens, check.max_tokens)
        demands.append(Demand(check.preset, "length", limits, "share", check.share, True, _keeps_limits(check)))
    if check.ends_with is not None:
        ending = check.ends_with
        demands.append(
            Demand(
                *(check.preset, "ending", f"end with '{ending}'", "share", check.share, True),
                lambda answer: float(scorers.ends_with(answer.text, ending)),
            )
        )
    if check.overlap is not None:
        means = "words shared with the reference"
        demands.append(
            Demand(check.preset, "overlap", means, "mean", check.overlap, True, lambda answer: answer.overlap)
        )
    if check.repetition is not None:
        means = "repeated 4-word sequences"
        demands.append(
            Demand(
                check.preset, "repetition", means, "highest", check.repetition, False, lambda answer: answer.repetition
            )
        )
    return demands


def _keeps_limits(check: Check) -> Callable[[ScoredAnswer], float]:
    """1 for an answer within the limits. One that was cut did not keep `max_tokens`, however few tokens it has."""

    def value(answer: ScoredAnswer) -> float:
        long_enough = check.min_tokens is None or answer.tokens >= check.min_tokens
        short_enough = check.max_tokens is None or (answer.ended_by_itself and answer.tokens <= check.max_tokens)
        return float(long_enough and short_enough)

    return value


def _limits_text(low: int | None, high: int | None) -> str:
    if high is None:
        return f"have at least {low} tokens"
    return (
        f"end by themselves within {high} tokens" if low is None else f"end by themselves with {low} to {high} tokens"
    )


def _result(demand: Demand, rows: Sequence[RowRecord], seed: int) -> CheckResult:
    values = [demand.value(row.candidate) for row in rows]
    observed = max(values) if demand.statistic == "highest" else math.fsum(values) / len(values)
    rivals = dict.fromkeys(name for row in rows for name in row.against)
    return CheckResult(
        preset=demand.preset,
        check=demand.means,
        statistic=demand.statistic,
        asked=len(rows),
        observed=observed,
        threshold=demand.threshold,
        at_least=demand.at_least,
        passed=_keeps(demand, observed),
        sentence=_sentence(demand, values, observed),
        failing=tuple(row.line for row, value in zip(rows, values, strict=True) if _fails_alone(demand, value)),
        against={
            name: paired_difference(values, [demand.value(row.against[name]) for row in rows], seed) for name in rivals
        },
    )


def _keeps(demand: Demand, figure: float) -> bool:
    return figure >= demand.threshold if demand.at_least else figure <= demand.threshold


def _fails_alone(demand: Demand, value: float) -> bool:
    return value == 0 if demand.statistic == "share" else not _keeps(demand, value)


def _sentence(demand: Demand, values: Sequence[float], observed: float) -> str:
    """What was seen and what is needed, in words."""
    count = len(values)
    needed, seen = percent(demand.threshold), percent(observed, demand.threshold)
    if demand.statistic == "share":
        return f"{demand.preset}: {int(sum(values))} of {count} answers ({seen}) {demand.means}; at least {needed} must"
    if demand.statistic == "mean":
        return f"{demand.preset}: {demand.means} are {seen} (mean F1 of {count} answers); at least {needed} is needed"
    return f"{demand.preset}: {demand.means} are {seen} in the worst of {count} answers; at most {needed} is allowed"


def percent(figure: float, beside: float | None = None) -> str:
    """A share as text, with as many decimals as it takes to tell it from `beside`.

    >>> percent(0.95), percent(46 / 48, 0.95), percent(0.94996, 0.95)
    ('95%', '95.8%', '94.996%')
    """
    for decimals in range(1, 9):
        text = f"{100 * figure:.{decimals}f}"
        if beside is None or figure == beside or text != f"{100 * beside:.{decimals}f}":
            break
    return text.rstrip("0").rstrip(".") + "%"
