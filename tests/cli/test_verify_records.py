"""Outcomes, counts, the exit code and the sentence at the end."""

from __future__ import annotations

import pytest

from onecard.cli.verify_records import Check, Outcome, conclusion, counts, exit_code, judged, unseen


def checks(*outcomes: Outcome) -> list[Check]:
    return [Check("plan", "serving", "fits", outcome, "seen") for outcome in outcomes]


@pytest.mark.parametrize(
    ("outcomes", "code", "strict_code", "words"),
    [
        (("pass", "pass"), 0, 0, "verified"),
        (("pass", "not applicable"), 0, 0, "verified"),
        (("pass", "fail", "could not be checked"), 1, 1, "1 failed"),
        (("pass", "could not be checked"), 0, 1, "not verified as a whole"),
        (("not applicable",), 0, 1, "nothing was checked"),
        ((), 0, 1, "nothing was checked"),
    ],
)
def test_only_what_was_seen_to_hold_is_verified(
    outcomes: tuple[Outcome, ...], code: int, strict_code: int, words: str
) -> None:
    found = checks(*outcomes)
    assert (exit_code(found, strict=False), exit_code(found, strict=True)) == (code, strict_code)
    assert words in conclusion(found)


def test_a_next_step_stands_with_a_failure_only() -> None:
    passed, failed = (judged("plan", "a", "b", good, "1", "2", "file", "mend it") for good in (True, False))
    assert (passed.outcome, passed.next_step) == ("pass", "")
    assert (failed.outcome, failed.next_step) == ("fail", "mend it")
    assert unseen("plan", "a", "b", "no card").seen == "no card"


def test_every_outcome_is_counted_also_when_there_is_none() -> None:
    assert counts(checks("pass", "fail", "pass")) == {
        "pass": 2, "fail": 1, "not applicable": 0, "could not be checked": 0,
    }  # fmt: skip
