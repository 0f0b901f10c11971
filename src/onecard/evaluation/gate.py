"""May this candidate answer users? Pure: the suite's checks and the scored answers in, a report and a verdict out.

A check passes when its figure over all answers keeps the threshold and every comparison it demands is won. A comparison that the rows
cannot decide is "undecided", which is not a pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from pydantic import Field

from onecard.adapters.manifest import Verdict
from onecard.errors import EngineFailed, FleetError
from onecard.evaluation import scorers
from onecard.evaluation.comparisons import Absent as Absent
from onecard.evaluation.comparisons import Comparison, Wish, comparisons
from onecard.evaluation.demands import ALL, Statistic, no_limit, sentence
from onecard.evaluation.demands import Demand as Demand
from onecard.evaluation.demands import demands_of as demands_of
from onecard.evaluation.demands import percent as percent
from onecard.evaluation.paired import Difference, Outcome, paired_difference
from onecard.evaluation.questions import Question
from onecard.evaluation.record import Record
from onecard.evaluation.suite import ScoredAnswer
from onecard.fleet.schema import Check, Deadline, Preset, Suite


class RowRecord(Record):
    """One question, the candidate's answer, and those of whom it is compared with ("base", "production")."""

    line: int
    preset: str
    prompt: str
    reference: str
    candidate: ScoredAnswer
    against: dict[str, ScoredAnswer] = Field(default_factory=dict)


class CheckResult(Record):
    """One demand and its figure. `failing` are lines of the data file whose answers do not keep it by themselves.

    `against` holds, per rival, the mean difference of the answers' values (for a share: 1 kept, 0 not; for a perplexity: negative
    log-likelihood per token), candidate minus rival. `undecided`: nothing failed, and the rows are too few to tell.
    """

    preset: str
    check: str
    statistic: Statistic
    asked: int
    observed: float
    threshold: float
    at_least: bool
    passed: bool
    undecided: bool = False
    sentence: str
    failing: tuple[int, ...] = ()
    against: dict[str, Difference] = Field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return "passed" if self.passed else "undecided" if self.undecided else "failed"

    @property
    def compares_only(self) -> bool:
        """Whether any figure keeps it, so that only comparisons decide."""
        return no_limit(self.threshold, self.at_least)

    @property
    def why(self) -> tuple[str, ...]:
        """Sentences of what keeps it from passing; empty when it passes."""
        if self.passed:
            return ()
        lost = tuple(one.sentence for one in self.comparisons if one.outcome in ("failed", "undecided"))
        kept = self.observed >= self.threshold if self.at_least else self.observed <= self.threshold
        return lost if kept and lost else (self.sentence, *lost)


class GateReport(Record):
    """All that was asked, answered and demanded."""

    passed: bool
    suite_digest: str
    seed: int
    checks: tuple[CheckResult, ...]
    rows: tuple[RowRecord, ...]

    @property
    def outcome(self) -> Outcome:
        """Failed when any check failed, undecided when none did and some could not be told."""
        if self.passed:
            return "passed"
        return "failed" if any(check.outcome == "failed" for check in self.checks) else "undecided"


def judge(
    suite: Suite,
    rows: Sequence[RowRecord],
    digest: str,
    seed: int,
    *,
    deadline: Deadline | None = None,
    concurrency: int = 1,
    absent: Mapping[str, Absent] | None = None,
) -> GateReport:
    """Every demand of every check on the rows; FleetError for a check without a demand.

    How error adds up: a candidate passes only when all comparisons are won, so one that is truly worse in any of them passes with at most
    2.5% probability, however many there are, and no correction is needed (intersection-union test: Berger, Technometrics 24, 1982). The
    price is on the other side: each comparison more is one more chance for a good candidate to be called undecided.
    """
    results: list[CheckResult] = []
    for number, check in enumerate(suite.checks):
        if check.in_time and deadline is None:
            next_step = "give it one: deadline: {seconds: ..., prompt_tokens: ..., new_tokens: ..., percentile: 95}"
            problem = "in_time is demanded, and the agent has no deadline"
            raise FleetError(problem, where=f"suite.checks.{number}", next_step=next_step)
        demands = demands_of(check, deadline, concurrency)
        if not demands:
            raise FleetError("the check demands nothing", where=f"suite.checks.{number}", allowed=", ".join(ALL))
        asked = [row for row in rows if row.preset == check.preset]
        results += [_result(check, demand, asked, seed, absent or {}) for demand in demands]
    passed = all(result.passed for result in results)
    return GateReport(passed=passed, suite_digest=digest, seed=seed, checks=tuple(results), rows=tuple(rows))


def verdict(
    report: GateReport,
    *,
    at: str,
    digest: str = "",
    file: str | None = None,
    judged_against: Mapping[str, str | None] | None = None,
) -> Verdict:
    """The store's record of a report: bound to the suite's digest and to the adapter's, which the store fills in when empty.

    `judged_against` goes into the summary: digests of the production version and of the base it was compared with.
    """
    fields = {"preset", "check", "asked", "observed", "threshold", "passed", "undecided"}
    summary = {
        "asked": len(report.rows),
        "seed": report.seed,
        "outcome": report.outcome,
        "checks": [
            {
                **result.model_dump(mode="json", include=fields),
                "compared": [one.model_dump(mode="json", exclude={"sentence"}) for one in result.comparisons],
            }
            for result in report.checks
        ],
        "failed": [reason for result in report.checks for reason in result.why],
        "judged_against": dict(judged_against or {}),
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


def _result(
    check: Check, demand: Demand, rows: Sequence[RowRecord], seed: int, absent: Mapping[str, Absent]
) -> CheckResult:
    values = [demand.value(row.candidate) for row in rows]
    if not values or any(map(math.isnan, values)):
        raise EngineFailed(f"{demand.preset}: '{demand.means}' was not measured on every row")
    against = _against(demand, rows, values, seed)
    wishes: list[Wish] = [(rival, "no worse", margin) for rival, margin in check.no_worse_than.items()]
    if check.better_than:
        wishes.append((check.better_than, "better", 0.0))
    failing = tuple(row.line for row, value in zip(rows, values, strict=True) if demand.fails_alone(value))
    observed = demand.figure(values)
    told = sentence(demand, values, observed)
    return settled(demand, values, observed, told, against, comparisons(demand, wishes, against, absent), failing)


def settled(
    demand: Demand,
    values: Sequence[float],
    observed: float,
    told: str,
    against: dict[str, Difference],
    compared: Sequence[Comparison],
    failing: tuple[int, ...],
) -> CheckResult:
    """A demand's figure and comparisons as a result: passed, failed or undecided."""
    kept, few = demand.keeps(observed), len(values) < demand.fewest
    outcomes = {one.outcome for one in compared}
    return CheckResult(
        preset=demand.preset,
        check=demand.means,
        statistic=demand.statistic,
        asked=len(values),
        observed=observed,
        threshold=demand.threshold,
        at_least=demand.at_least,
        passed=kept and not few and not outcomes & {"failed", "undecided"},
        undecided=kept and "failed" not in outcomes and (few or "undecided" in outcomes),
        sentence=f"{told}; not enough rows to tell, {demand.fewest} are needed" if few and kept else told,
        failing=failing,
        against=against,
        comparisons=tuple(compared),
    )


def _against(demand: Demand, rows: Sequence[RowRecord], values: Sequence[float], seed: int) -> dict[str, Difference]:
    """The paired difference to every rival of whom the figure was measured on every row."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row.against):
        theirs = [demand.value(row.against[name]) if name in row.against else math.nan for row in rows]
        if not any(map(math.isnan, theirs)):
            found[name] = paired_difference(values, theirs, seed)
    return found
