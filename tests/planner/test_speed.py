from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.cards import custom_card, find_card
from onecard.catalog.machine import cpu_card
from onecard.catalog.models import find_model
from onecard.fleet.schema import ModelSpec
from onecard.planner.shapes import ModelShape, shape_of_model
from onecard.planner.speed import MEASURED_RANGE, Answering, SpeedFacts, cold_start, is_cpu, streamed_bytes

H200 = cold_start(find_card("h200-sxm"))


def answering(
    shape: ModelShape,
    quantization: str,
    engine: str,
    adapters: int = 0,
    speed: SpeedFacts = H200,
    on_cpu: bool = False,
) -> Answering:
    spec = ModelSpec.model_validate({"id": shape.id, "quantization": quantization, "engine": engine, "context": 1024})
    return Answering(spec, shape, speed, adapters, adapters > 0, shape.linear_count, on_cpu)


# One H200, Mistral-7B shape in the local engine, 2026-11-21, milliseconds a step of one caller after 128 tokens. The whole comparison is
# in docs/measurements; constants were fitted to its first set.
@pytest.mark.parametrize(("quantization", "adapters", "ms"), [("none", 0, 21.8), ("nf4", 0, 29.4), ("none", 1, 40.2)])
def test_decoding_in_process_agrees_with_what_was_measured(
    mistral: ModelShape, quantization: str, adapters: int, ms: float
) -> None:
    assert 1000 * answering(mistral, quantization, "local", adapters).step_s(1, 132) == pytest.approx(ms, rel=0.1)


# The same with vLLM 0.26; the constants of its engine were fitted to these.
@pytest.mark.parametrize(("lines", "adapters", "ms"), [(1, 0, 40.8), (6, 0, 53.7), (1, 4, 57.4), (6, 4, 84.6)])
def test_short_requests_to_vllm_agree_with_what_was_measured(
    mistral: ModelShape, lines: int, adapters: int, ms: float
) -> None:
    model = answering(mistral, "none", "vllm", adapters)
    seconds = model.prefill_s(lines, 128) + 7 * model.step_s(lines, 132)
    assert 1000 * seconds == pytest.approx(ms, rel=0.05)


@pytest.mark.parametrize(("adapters", "tokens_s"), [(0, 5263), (4, 3902)])
def test_throughput_of_vllm_at_64_callers_agrees_with_what_was_measured(
    mistral: ModelShape, adapters: int, tokens_s: float
) -> None:
    model = answering(mistral, "none", "vllm", adapters)
    seconds = model.prefill_s(64, 512) + 127 * model.step_s(64, 576)
    assert 64 * 128 / seconds == pytest.approx(tokens_s, rel=0.05)


def test_a_measured_overhead_replaces_the_assumed_one_and_narrows_the_range(mini: ModelShape) -> None:
    card = cpu_card(8 * 2**30, 10.0)
    assumed = answering(mini, "nf4", "local", speed=cold_start(card), on_cpu=True)
    measured = replace(assumed, speed=SpeedFacts(10.0, 0.1, 4.0, "measured", "timed just now"))
    assert measured.step_s(1, 100) < 0.7 * assumed.step_s(1, 100)
    assert measured.factors == MEASURED_RANGE
    assert measured.factors.high < assumed.factors.high


@settings(deadline=None, max_examples=50)
@given(
    lines=st.integers(1, 64),
    tokens=st.integers(1, 4000),
    engine=st.sampled_from(["local", "vllm"]),
    adapters=st.integers(0, 4),
)
def test_more_work_never_takes_less_time(
    mistral: ModelShape, lines: int, tokens: int, engine: str, adapters: int
) -> None:
    model = answering(mistral, "none", engine, adapters)
    assert model.step_s(lines, tokens) <= model.step_s(lines + 1, tokens)
    assert model.step_s(lines, tokens) <= model.step_s(lines, tokens + 50)
    assert model.prefill_s(lines, tokens) <= model.prefill_s(lines, tokens + 50)
    slower = replace(model, speed=replace(H200, bandwidth_gbs=400.0, tflops=50.0))
    assert slower.step_s(lines, tokens) >= model.step_s(lines, tokens)
    assert slower.prefill_s(lines, 2048) > model.prefill_s(lines, 2048)


def test_a_mixture_streams_more_experts_for_more_tokens() -> None:
    shape = shape_of_model(find_model("openai/gpt-oss-20b"))
    spec = ModelSpec(id=shape.id)
    one, many = streamed_bytes(spec, shape, 1), streamed_bytes(spec, shape, 512)
    assert one < 0.4 * many


def test_embeddings_are_not_streamed_unless_they_are_the_head(mistral: ModelShape) -> None:
    spec = ModelSpec(id=mistral.id)
    assert streamed_bytes(spec, mistral, 1) == 2 * (7_248_023_552 - 32768 * 4096)


def test_cold_start_takes_what_the_card_says() -> None:
    assert cold_start(find_card("t4")).tflops == 65.0  # no bf16 there: fp16
    assert cold_start(custom_card(24, 900)).tflops is None
    assert is_cpu(cpu_card(2**30, 5.0))
    assert not is_cpu(find_card("t4"))
