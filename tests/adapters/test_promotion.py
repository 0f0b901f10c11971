"""The gate in front of production."""

from __future__ import annotations

import pytest

from onecard.adapters.manifest import Verdict
from onecard.adapters.promotion import bound, check_gate, outdated
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


def judged_against(production: object, **changes: object) -> Verdict:
    """A passing verdict on the digest d..., which says what was in production when it was given."""
    summary = {"judged_against": {"production": production, "base_fingerprint": "c" * 64}}
    return PASSED.model_copy(update={"digest": "d" * 64, "summary": summary, **changes})


def test_a_verdict_counts_beside_the_production_it_was_compared_with() -> None:
    given, first = judged_against("b" * 64), judged_against(None)
    check_gate("writer/style@v0002", given, force=False, reason=None, production="b" * 64)
    check_gate("writer/style@v0002", first, force=False, reason=None, production=None)
    check_gate("writer/style@v0002", given, force=False, reason=None, production="d" * 64)  # it is in production itself
    for verdict, production, said in (
        (given, "e" * 64, "against bbbbbbbbbbbb in production, and now eeeeeeeeeeee is there"),
        (given, None, "now nothing is there"),
        (first, "e" * 64, "against nothing in production"),
    ):
        with pytest.raises(GateFailed, match=said) as caught:
            check_gate("writer/style@v0002", verdict, force=False, reason=None, production=production)
        assert "evaluate again" in (caught.value.next_step or "")
        check_gate("writer/style@v0002", verdict, force=True, reason="known to be good", production=production)


@pytest.mark.parametrize(
    "summary", [{}, {"judged_against": {"base_fingerprint": "c"}}, {"judged_against": "production"}]
)
def test_a_verdict_that_never_compared_is_not_outdated(summary: dict[str, object]) -> None:
    assert outdated(PASSED.model_copy(update={"summary": summary}), "e" * 64) is None
