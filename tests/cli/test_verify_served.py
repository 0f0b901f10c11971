"""What a service says of itself, judged: memory beside the plan, how it stopped, and what a missing service leaves unseen."""

from __future__ import annotations

import pytest

from onecard.catalog.cards import custom_card
from onecard.cli.verify_records import OF_THE_SERVICE
from onecard.cli.verify_served import Named, Page, memory_checks, named_checks, not_started, start_checks, stop_checks
from onecard.cli.verify_service import Stopped
from onecard.fleet.schema import Fleet
from onecard.planner.plan import TIGHT_SHARE, Plan, plan
from onecard.planner.shapes import ModelShape
from onecard.wire.health import Health, MemoryHealth

FLEET = Fleet.model_validate(
    {
        "name": "trial",
        "card": {"vram_gib": 8, "bandwidth_gbs": 100},
        "models": {"base": {"id": "embedded:mini", "quantization": "nf4", "context": 128}},
        "agents": {"writer": {"model": "base", "deadline": {"seconds": 1, "prompt_tokens": 9, "new_tokens": 9}}, "bare": {"model": "base"}},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def planned() -> Plan:
    from pathlib import Path

    from onecard.cli.model_shapes import shape_of

    shape: ModelShape = shape_of("embedded:mini", Path(), False, offline=True)
    return plan(FLEET, custom_card(8, 100, None), {"base": shape})


def taking(size: int | None) -> Health:
    return Health(status="ok", memory=MemoryHealth(gpu_bytes=size))


def test_memory_is_held_against_the_card_and_the_plan(planned: Plan) -> None:
    unsure = sum(planned.serving.bytes_tagged(tag) for tag in ("fitted", "assumed"))
    limit = planned.need_bytes + round(TIGHT_SHARE * unsure)

    def outcomes(size: int | None, plan: Plan | None = planned, other: str | None = None) -> list[str]:
        return [check.outcome for check in memory_checks(taking(size), plan, other, "fleet.yaml")]

    assert outcomes(limit) == ["pass", "pass"]
    assert outcomes(limit + 1) == ["pass", "fail"]
    assert outcomes(planned.available_bytes + 1) == ["fail", "fail"]
    assert outcomes(None) == outcomes(1, None) == outcomes(1, other="another card") == ["could not be checked"]


@pytest.mark.parametrize(
    ("stopped", "leftovers", "outcome"),
    [
        (Stopped(0, 1, True, ()), (), "pass"),
        (Stopped(130, 1, True, ()), (), "fail"),
        (Stopped(None, 45, True, (7,)), (), "fail"),
        (Stopped(0, 1, False, ()), (), "fail"),
        (Stopped(0, 1, True, ()), ("a lock: store/.lock",), "fail"),
    ],
)
def test_only_a_clean_end_passes(stopped: Stopped, leftovers: tuple[str, ...], outcome: str) -> None:
    check = next(stop_checks(stopped, leftovers))
    assert check.outcome == outcome and all(name in check.seen for name in leftovers)


def test_pages_and_names_are_judged_by_what_came() -> None:
    pages = start_checks(2.0, "http://x", Page("/health", 200, "{}"), Page("/ready", 503, "loading"))
    assert [check.outcome for check in pages] == ["pass", "pass", "fail"]
    answers = {
        "good": Named("good", "good", "d" * 64, "style@v0001"),
        "base": Named("base", "base", "none", "none"),
        "other": Named("other", "good", "d" * 64, "style@v0001"),
        "dead": Named("dead", problem="no answer: refused"),
    }
    digests = {"good": "d" * 64, "base": None, "other": "d" * 64, "dead": "d" * 64}
    assert [check.outcome for check in named_checks(answers, digests, "f")] == ["pass", "pass", "fail", "fail"]


def test_without_a_service_every_criterion_of_it_says_so(planned: Plan) -> None:
    checks = list(not_started(FLEET, OF_THE_SERVICE, "no card", ("writer", "bare"), planned))
    assert {check.criterion for check in checks} == set(OF_THE_SERVICE)
    assert "pass" not in {check.outcome for check in checks}
    deadlines = {check.subject: check.outcome for check in checks if check.criterion == "deadline"}
    assert deadlines == {"writer": "could not be checked", "bare": "not applicable"}
    assert {check.criterion for check in not_started(FLEET, ("load",), "no card", ())} == {"load"}
