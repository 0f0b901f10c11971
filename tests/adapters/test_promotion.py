"""The gate in front of production."""

from __future__ import annotations

import pytest

from onecard.adapters.manifest import Verdict
from onecard.adapters.promotion import bound, check_gate
from onecard.errors import GateFailed, InputError

PASSED = Verdict(passed=True, at="2026-11-21T10:00:00Z", suite_digest="s", summary={})
FAILED = PASSED.model_copy(update={"passed": False, "report": "report.json"})


def test_a_passing_verdict_opens_the_gate() -> None:
    check_gate("writer/style@v0001", PASSED, force=False, reason=None)


@pytest.mark.parametrize(("verdict", "why"), [(None, "not been evaluated"), (FAILED, "did not pass")])
def test_without_one_it_stays_shut(verdict: Verdict | None, why: str) -> None:
    with pytest.raises(GateFailed, match=why):
        check_gate("writer/style@v0001", verdict, force=False, reason="I like it")
    check_gate("writer/style@v0001", verdict, force=True, reason="I like it")


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_force_needs_a_reason(reason: str | None) -> None:
    with pytest.raises(InputError, match="reason"):
        check_gate("writer/style@v0001", PASSED, force=True, reason=reason)


def test_a_verdict_belongs_to_one_digest() -> None:
    mine = bound(PASSED, "a" * 64, "writer/style@v0001")
    assert mine.digest == "a" * 64
    assert bound(mine, "a" * 64, "writer/style@v0001") == mine
    with pytest.raises(InputError, match="was given on"):
        bound(mine, "b" * 64, "writer/style@v0002")
