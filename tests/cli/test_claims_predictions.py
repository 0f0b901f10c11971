"""What the planner and the catalog say about claims, and what they leave open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onecard.cli.claims_predictions import predict
from onecard.cli.claims_remarks import remark
from onecard.evidence.claims import QUANTITIES, Claim, Predicted, verdict
from onecard.evidence.claims_file import shipped_claims

MISTRAL = "mistralai/Mistral-7B-v0.3"


def claim(quantity: str, value: Any = 8, unit: str | None = None, comparison: str = "is", **subject: Any) -> Claim:
    record = {
        "id": "test", "statement": "A sentence.", "quantity": quantity, "value": value, "comparison": comparison,
        "unit": unit or QUANTITIES[quantity].unit or None, "who": "me", "subject": subject,
    }  # fmt: skip
    return Claim.model_validate(record)


def figure(of: Claim) -> Predicted:
    found = predict(of, Path()).predicted
    assert found is not None and found.low is not None
    return found


def missing(of: Claim) -> str:
    found = predict(of, Path())
    assert found.predicted is None and found.missing is not None
    return found.missing


def test_weights_are_exact() -> None:
    found = figure(claim("weights_gib", model=MISTRAL, quantization="int8"))
    assert found.low == found.high == pytest.approx(7.01, abs=0.01)
    assert found.tag == "exact"


def test_memory_without_a_length_is_only_known_from_below() -> None:
    least = figure(claim("memory_gib", model=MISTRAL, quantization="int8"))
    whole = figure(claim("memory_gib", model=MISTRAL, quantization="int8", context=8192))
    assert least.high is None and least.low is not None
    assert whole.low is not None and whole.expected is not None and whole.high is not None
    assert least.low < whole.low < whole.expected < whole.high


def test_more_callers_and_more_context_need_more() -> None:
    one = figure(claim("memory_gib", model=MISTRAL, context=2048))
    assert one.low < figure(claim("memory_gib", model=MISTRAL, context=4096)).low  # type: ignore[operator]
    assert one.low < figure(claim("memory_gib", model=MISTRAL, context=2048, callers=4)).low  # type: ignore[operator]


def test_a_median_is_in_milliseconds_and_a_time_in_seconds() -> None:
    shape = {"model": MISTRAL, "card": "rtx-3090", "prompt_tokens": 100, "new_tokens": 20}
    seconds, median = figure(claim("latency_s", **shape)), figure(claim("p50_ms", **shape))
    assert median.expected == pytest.approx(seconds.expected * 1000)  # type: ignore[operator]


def test_the_range_of_epochs_widens_the_time_downwards() -> None:
    run = {"model": MISTRAL, "card": "a10g", "recipe": "qlora", "rows": 1000, "row_tokens": 100}
    whole, fewer = figure(claim("training_hours", **run)), figure(claim("training_hours", epochs=(1, 3), **run))
    assert fewer.high == whole.high
    assert fewer.low == pytest.approx(whole.low / 3)  # type: ignore[operator]


def test_hours_and_prices_make_dollars() -> None:
    found = figure(claim("training_usd", card="mi300x", hours=(10, 20), runs=2))
    assert (found.low, found.high) == (pytest.approx(20 * 1.5), pytest.approx(40 * 6.0))
    assert "2026" in found.by


def test_fits_is_no_when_even_the_least_is_too_much_and_open_when_only_the_least_is_known() -> None:
    large = predict(claim("fits", True, model="microsoft/phi-4", card="rtx-3070"), Path()).predicted
    assert large is not None and large.answer is False
    assert "decides nothing" in missing(claim("fits", True, model=MISTRAL, quantization="nf4", card="rtx-3070"))
    small = predict(claim("fits", True, model=MISTRAL, quantization="nf4", card="rtx-3090", context=2048), Path())
    assert small.predicted is not None and small.predicted.answer is True


@pytest.mark.parametrize(
    ("subject", "answer"),
    [
        ({"model": "Qwen/Qwen3-8B-Instruct"}, False),
        ({"model": "qwen/qwen3-8b"}, True),
        ({"model": "meta-llama/Meta-Llama-3.1-8B-Instruct"}, False),
        ({"model": "Qwen/Qwen3-8B-AWQ"}, True),
        ({"model": "microsoft/phi-4", "checkpoint": "bnb-4bit"}, True),
    ],
)
def test_the_catalog_knows_what_is_a_repository(subject: dict[str, str], answer: bool) -> None:
    found = predict(claim("exists", True, **subject), Path()).predicted
    assert found is not None and found.answer is answer


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (claim("exists", True, model="nobody/nothing-7b"), "no model 'nobody/nothing-7b'"),
        (claim("exists", True, model="mistralai/Mathstral-7B-v0.1", checkpoint="awq"), "knows no repository"),
        (claim("memory_gib"), "no model is named"),
        (claim("latency_s", model=MISTRAL, card="a10g"), "length of prompts and answers is not said"),
        (claim("latency_s", model=MISTRAL, prompt_tokens=9, new_tokens=9), "no card is named"),
        (claim("training_hours", model=MISTRAL, card="a10g", recipe="qlora"), "number of rows is not said"),
        (claim("training_memory_gib", model=MISTRAL), "no recipe is named"),
        (claim("training_memory_gib", model=MISTRAL, recipe="qloro"), "did you mean 'qlora'"),
        (claim("memory_gib", model=MISTRAL, quantization="awq", engine="local"), "cannot hold awq"),
        (claim("memory_gib", model=MISTRAL, context=10**6), "reaches 32768 tokens"),
        (claim("growth", 2, model=MISTRAL), "one after the other"),
        (claim("quality", "good"), "onecard evaluate"),
        (claim("training_usd", card="apple-m3-max-48gb", hours=(1, 2)), "no price is known"),
        (claim("headroom_gib", fleet="no-such-fleet"), "no such file"),
    ],
)
def test_what_cannot_be_predicted_says_why(of: Claim, said: str) -> None:
    assert said in missing(of)


def judged(claim_id: str) -> tuple[str, str]:
    """Verdict and remark of a shipped claim."""
    found = next(claim for claim in shipped_claims().claims if claim.id == claim_id)
    prediction = predict(found, Path())
    judgement = verdict(found, prediction.predicted, None, missing=prediction.missing)
    return judgement.verdict, remark(found, prediction, judgement, Path()) or ""


@pytest.mark.parametrize("claim_id", ["d2-llava-seen", "d2-llava16-seen"])
def test_llava_at_15_gb_was_never_in_int8(claim_id: str) -> None:
    said, why = judged(claim_id)
    assert said == "refuted"
    assert why.startswith("held in 16 bits it would take")


@pytest.mark.parametrize(
    ("claim_id", "said"),
    [
        ("a3-open-falcon", "confirmed"),
        ("a4-int8-falcon", "refuted"),
        ("a5-qlora", "confirmed"),
        ("a7-memory-falcon", "refuted"),
        ("a7-p50-mistral-6", "unknown"),
        ("b1-20b", "confirmed"),
        ("b1-120b", "unknown"),  # by itself; its reason decides
        ("b1-dense-14b", "confirmed"),
        ("c3-qwen3-instruct", "refuted"),
        ("c4-hours-qwen3", "unknown"),
        ("c5-three-models", "confirmed"),
        ("d2-blip2-low", "refuted"),
        ("e5-memory", "confirmed"),
        ("e8-verbose", "unknown"),
    ],
)
def test_what_becomes_of_a_claim_that_is_not_close(claim_id: str, said: str) -> None:
    found = next(claim for claim in shipped_claims().claims if claim.id == claim_id)
    assert verdict(found.model_copy(update={"reasoned": None}), predict(found, Path()).predicted, None).verdict == said


def test_what_is_not_said_is_put_in_proportion() -> None:
    assert "tokens takes as much" in judged("a7-memory-mistral")[1]
    assert "a token takes" in judged("a7-p50-mistral-1")[1]
    assert judged("a7-p50-mistral-6")[1] == ""
    assert "million tokens" in judged("c4-hours-phi4")[1]
    assert "rows of up to about" in judged("c3-phi4-15gb")[1]
