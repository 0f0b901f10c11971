"""Where the search for the largest rate begins, and how its answer is worded; the search itself stands in test_bench_traffic."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.benchmark.limit import LimitPlan
from onecard.benchmark.rate_limit import Limit
from onecard.cli.bench_limit import _planned_rps, sentence_of
from onecard.cli.bench_service import Service
from onecard.fleet.loader import load_fleet

DEMO = Path(__file__).parents[2] / "examples" / "demo.yaml"


def test_the_plan_of_the_fleet_is_the_first_guess() -> None:
    service = Service("http://127.0.0.1:1", {}, {}, load_fleet(DEMO))
    alone, both = _planned_rps(service, ["explainer"]), _planned_rps(service, ["explainer", "quizmaster@v0001"])
    assert alone is not None and both is not None and alone > 0
    assert both == pytest.approx(alone, rel=0.5)  # two agents of one model share what it gets done
    assert _planned_rps(service, ["base"]) is None
    assert _planned_rps(Service("http://127.0.0.1:1", {}, {}), ["explainer"]) is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (None, None, "no probe was decided"),
        (None, 2.0, "is not kept even at 2 requests/s"),
        (2.0, None, "is kept at 2 requests/s, the largest rate that was tried"),
        (2.0, 2.2, "is kept up to a rate between 2 and 2.2 requests/s"),
    ],
)
def test_the_answer_says_what_is_known(low: float | None, high: float | None, said: str) -> None:
    plan = LimitPlan(url="http://x", prompts={}, deadline_ms=1500.0, percentile=95.0)
    assert said in sentence_of(Limit(low, high, ()), plan)
    assert "p95" in sentence_of(Limit(low, high, ()), plan)
