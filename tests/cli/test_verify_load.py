"""A deadline held against the requests of a load: pure, with failures that cannot hide in a percentile."""

from __future__ import annotations

import pytest

from onecard.cli.verify_load import judge
from onecard.cli.verify_records import Neighbours, on_a_busy_machine
from onecard.evidence.results import RequestRecord
from onecard.fleet.schema import Deadline
from onecard.planner.speed import Seconds

DEADLINE = Deadline(seconds=4, prompt_tokens=20, new_tokens=100, percentile=95)


def answered(seconds: float, tokens: int = 100, outcome: str = "ok") -> RequestRecord:
    return RequestRecord.model_validate(
        {
            "caller": 0, "prompt": 0, "agent": "writer", "intended_s": 0, "sent_s": 0, "end_s": seconds,
            "outcome": outcome, "new_tokens": tokens,
        }
    )  # fmt: skip


def judged(requests: list[RequestRecord], planned: Seconds | None = None) -> tuple[str, str, str]:
    check = judge("writer", DEADLINE, tuple(requests), "6 callers, preset verbose", planned, "onecard bench sweep")
    return check.outcome, check.seen, check.evidence


def test_the_percentile_decides_and_the_plan_stands_beside_it() -> None:
    outcome, seen, evidence = judged([answered(2.0)] * 19 + [answered(9.0)] + [answered(2.0)] * 10, Seconds(1, 2, 3))
    assert (outcome, seen) == ("pass", "p95 2.00 s; planned 2 s (1 to 3)")
    assert "30 requests, 6 callers" in evidence and "100 tokens an answer" in evidence
    outcome, seen, _ = judged([answered(5.0)] * 30, Seconds(1, 2, 3))
    assert outcome == "fail" and "outside the plan's range" in seen


@pytest.mark.parametrize(("failures", "outcome"), [(1, "pass"), (2, "fail"), (20, "fail")])
def test_a_failed_request_was_not_in_time(failures: int, outcome: str) -> None:
    requests = [answered(1.0)] * (40 - failures) + [answered(0.1, outcome="error")] * failures
    got, seen, _ = judged(requests)
    assert f"{failures} of 40 failed" in seen
    assert got == outcome


def test_answers_shorter_than_the_deadline_speaks_of_are_said_to_be() -> None:
    _, _, evidence = judged([answered(1.0, tokens=30)] * 20)
    assert "shorter than the deadline's 100" in evidence


def test_a_deadline_missed_beside_others_is_no_proof_but_one_that_was_kept_is() -> None:
    missed, kept = (judge("writer", DEADLINE, (answered(s),) * 20, "load", None, "bench") for s in (5.0, 1.0))
    loud, quiet = Neighbours(3.0, 4), Neighbours(0.1, 4)
    assert on_a_busy_machine(missed, loud).outcome == "could not be checked"
    assert "3.0 of 4 cores busy" in on_a_busy_machine(missed, loud).seen
    assert on_a_busy_machine(kept, loud) == kept
    assert on_a_busy_machine(missed, quiet) == on_a_busy_machine(missed, None) == missed
