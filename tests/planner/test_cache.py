"""The KV cache line by engine, in 16 bits and in fp8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.models import find_model, load_models
from onecard.catalog.shapes import KvShape
from onecard.catalog.units import KIB
from onecard.errors import FleetError
from onecard.fleet.schema import Fleet, ModelSpec
from onecard.planner.cache import cache_line, cached_value_bytes, is_recurrent, model_engine, token_bytes
from onecard.planner.memory import serving_ledger
from onecard.planner.shapes import ModelShape, shape_of_model

# KiB of KV cache a token, counted on models on the meta device.
KIB_A_TOKEN = {
    "mistralai/Mistral-7B-v0.3": 128,
    "tiiuae/falcon-7b": 8,
    "mosaicml/mpt-7b": 512,
    "microsoft/phi-4": 200,
    "llava-hf/llava-1.5-7b-hf": 512,
}


def shape(model_id: str) -> ModelShape:
    return shape_of_model(find_model(model_id))


def spec(model: ModelShape, **keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": model.id, **keys})


@pytest.mark.parametrize("model_id", KIB_A_TOKEN)
def test_a_token_takes_what_was_counted_on_the_real_models(model_id: str) -> None:
    model = shape(model_id)
    line = cache_line("base", spec(model, context=1024, concurrency=2), model)
    assert line.bytes == KIB_A_TOKEN[model_id] * KIB * 1024 * 2
    assert (line.part, line.tag) == ("KV cache (16-bit)", "exact")
    assert line.source.startswith(f"{KIB_A_TOKEN[model_id]} KiB x 1024 tokens x 2")


def test_sliding_layers_stop_at_their_window_in_vllm_and_are_kept_whole_in_process() -> None:
    model = shape("google/gemma-3-12b-it")
    asked = spec(model, context=32768, engine="vllm")
    whole = cache_line("base", asked.model_copy(update={"engine": "local"}), model)
    capped = cache_line("base", asked, model)
    assert whole.bytes == 32768 * model.kv.bytes_per_token()
    assert capped.bytes == model.kv.bytes_for(32768) < 0.3 * whole.bytes
    assert "sliding layers kept whole" in whole.source
    assert "40 layers stop at 1024" in capped.source


def test_vllm_holds_whole_blocks() -> None:
    model = shape("mistralai/Mistral-7B-v0.3")
    line = cache_line("base", spec(model, context=1025, engine="vllm"), model)
    assert line.bytes == 1040 * 128 * KIB
    assert "in blocks of 16" in line.source
    assert cache_line("base", spec(model, context=1025), model).bytes == 1025 * 128 * KIB


def test_fp8_halves_keys_and_values_and_leaves_a_recurrent_state() -> None:
    model = shape("mistralai/Mistral-7B-v0.3")
    plain, quantized = (
        spec(model, context=4096, concurrency=3, engine="vllm", kv_cache=form) for form in ("auto", "fp8")
    )
    assert 2 * cache_line("base", quantized, model).bytes == cache_line("base", plain, model).bytes
    assert cache_line("base", quantized, model).part == "KV cache (fp8)"
    mixed = shape("Qwen/Qwen3.5-9B")
    line = cache_line("base", spec(mixed, context=4096, kv_cache="fp8"), mixed)
    held = mixed.kv.held_by("vllm")
    assert line.bytes == 4096 * held.bytes_per_token(1) + held.fixed_state_bytes
    assert "KiB of state each" in line.source


def test_latent_attention_is_asked_of_the_engines_own_cache() -> None:
    """What transformers and vLLM hold of one model may differ; the line takes each engine's."""
    model = shape("mistralai/Mistral-7B-v0.3")
    latent = KvShape(32, 1, 576, latent_width=576)
    kv = dataclasses.replace(model.layout.kv, vllm=latent)
    other = dataclasses.replace(model, layout=dataclasses.replace(model.layout, kv=kv))
    assert cache_line("base", spec(other, context=1024), other).bytes == 128 * KIB * 1024
    assert cache_line("base", spec(other, context=1024, engine="vllm"), other).bytes == 32 * 576 * 2 * 1024


def test_what_a_token_adds_follows_the_form() -> None:
    model = shape("google/gemma-3-12b-it")
    asked = spec(model, context=32768, engine="vllm")
    assert token_bytes(asked, model) == model.kv.bytes_per_token()
    halved = asked.model_copy(update={"kv_cache": "fp8"})
    assert 2 * cache_line("base", halved, model).bytes == cache_line("base", asked, model).bytes
    assert 2 * token_bytes(halved, model) == token_bytes(asked, model)


def test_images_are_part_of_the_context() -> None:
    one_size, many_sizes, none = (
        cache_line("base", spec(model, context=1024), model).source
        for model in map(shape, ("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen3.5-9B", "microsoft/phi-4"))
    )
    assert "image 576 of them" in one_size
    assert "images within them" in many_sizes
    assert "image" not in none


@pytest.mark.parametrize("engine", ["auto", "local"])
def test_fp8_is_refused_where_the_engine_is_not_vllm(make_fleet: Callable[..., Fleet], engine: str) -> None:
    model = shape("mistralai/Mistral-7B-v0.3")
    with pytest.raises(FleetError, match="local engine cannot hold the KV cache in fp8") as refused:
        serving_ledger(make_fleet(engine=engine, kv_cache="fp8"), {"base": model})
    assert refused.value.where == "models.base.kv_cache"
    assert refused.value.allowed == "auto"
    assert "engine: vllm" in str(refused.value.next_step)
    fleet = make_fleet(engine="vllm", quantization="awq", kv_cache="fp8")
    assert "KV cache (fp8)" in [line.part for line in serving_ledger(fleet, {"base": model}).lines]


def test_checkpoints_only_vllm_can_hold_and_recurrent_layers_go_there_by_themselves() -> None:
    assert model_engine(spec(shape("openai/gpt-oss-20b")), shape("openai/gpt-oss-20b")) == "vllm"
    assert model_engine(spec(shape("Qwen/Qwen3.5-9B")), shape("Qwen/Qwen3.5-9B")) == "vllm"
    mistral = shape("mistralai/Mistral-7B-v0.3")
    assert [model_engine(spec(mistral, quantization=form), mistral) for form in ("none", "nf4", "awq")] == [
        "local",
        "local",
        "vllm",
    ]
    assert not is_recurrent(mistral)


@given(
    model=st.sampled_from(load_models()),
    context=st.integers(16, 200_000),
    callers=st.integers(1, 64),
    engine=st.sampled_from(["local", "vllm"]),
    more=st.integers(0, 5000),
)
def test_more_context_more_callers_and_more_bits_never_take_less(
    model: Any, context: int, callers: int, engine: str, more: int
) -> None:
    known = shape_of_model(model)
    asked = spec(known, context=context, concurrency=callers, engine=engine)
    size = cache_line("base", asked, known).bytes
    assert size > 0
    assert size <= cache_line("base", asked.model_copy(update={"context": context + more}), known).bytes
    assert size <= cache_line("base", asked.model_copy(update={"concurrency": callers + 1}), known).bytes
    halved = asked.model_copy(update={"kv_cache": "fp8"})
    assert cached_value_bytes(halved) == 1
    assert size / 2 <= cache_line("base", halved, known).bytes <= size
