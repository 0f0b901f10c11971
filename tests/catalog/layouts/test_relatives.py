"""Decoders of the Llama kind against transformers' own models, in every switch that changes a shape."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.catalog.architecture import count_parameters, kv_shape
from onecard.catalog.layouts.relatives import LAYOUTS

VARIANTS = {
    "apertus": {},
    "apertus-biases": {"attention_bias": True, "hidden_act": "silu", "tie_word_embeddings": True},
    "arcee": {},
    "arcee-biases": {"attention_bias": True, "mlp_bias": True, "head_dim": 24},
    "cohere": {},
    "cohere-plus": {"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False},
    "cohere2": {"sliding_window": 64},
    "cohere2-no-window": {"layer_types": ["full_attention"] * 4},
    "ernie4_5": {"head_dim": 24},
    "ernie4_5-biases": {"use_bias": True, "tie_word_embeddings": False},
    "exaone4": {"sliding_window": 64, "head_dim": 24},
    "exaone4-no-window": {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    "gemma": {"head_dim": 24},
    "gemma-default-head": {"attention_bias": True, "num_key_value_heads": 1},
    "gemma2": {"head_dim": 24, "sliding_window": 64, "num_hidden_layers": 5},
    "gemma2-untied": {"head_dim": 24, "attention_bias": True, "tie_word_embeddings": False},
    "glm": {"head_dim": 24},
    "glm-no-bias": {"attention_bias": False, "tie_word_embeddings": True},
    "glm4": {"head_dim": 24},
    "granite": {},
    "granite-biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "hunyuan_v1_dense": {"head_dim": 24},
    "hunyuan_v1_dense-biases": {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True},
    "nemotron": {"head_dim": 24},
    "nemotron-biases": {"attention_bias": True, "mlp_bias": True},
    "olmo": {},
    "olmo-bias": {"attention_bias": True, "tie_word_embeddings": True},
    "olmo2": {},
    "olmo2-bias": {"attention_bias": True, "num_key_value_heads": 4},
    "seed_oss": {"head_dim": 24},
    "seed_oss-switched": {"head_dim": 24, "attention_bias": False, "attention_out_bias": True, "mlp_bias": True},
    "stablelm": {},
    "stablelm-2": {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
}


def config_of(small, variant):
    return small(variant.partition("-")[0], **VARIANTS[variant])


def test_every_architecture_of_the_file_has_a_variant():
    assert {variant.partition("-")[0] for variant in VARIANTS} == set(LAYOUTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_those_of_the_real_model(variant, small, assert_weights):
    assert_weights(config_of(small, variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_is_that_of_a_real_forward(variant, small, held_by_a_forward):
    config = config_of(small, variant)
    assert kv_shape(config).bytes_for(17, 2) == held_by_a_forward(config, 17, 2)


@pytest.mark.parametrize("model_type", ["gemma2", "cohere2", "exaone4"])
def test_the_window_falls_on_the_layers_transformers_gives_it(model_type, small):
    from transformers import CONFIG_MAPPING

    config = small(model_type, num_hidden_layers=9, sliding_window=64)
    kinds = CONFIG_MAPPING[model_type](**{k: v for k, v in config.items() if k != "model_type"}).layer_types
    kv = kv_shape(config)
    assert (kv.layers_full, kv.layers_sliding, kv.window) == (
        kinds.count("full_attention"),
        kinds.count("sliding_attention"),
        64,
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model_type=st.sampled_from(sorted(LAYOUTS)),
    groups=st.integers(1, 3),
    kv=st.integers(1, 4),
    width=st.sampled_from([8, 16, 24]),
    inner=st.integers(1, 200),
    layers=st.integers(1, 8),
    tied=st.booleans(),
)
def test_counts_are_exact_at_any_size(real_model, small, model_type, groups, kv, width, inner, layers, tied):
    config = small(
        model_type,
        num_attention_heads=groups * kv,
        num_key_value_heads=kv,
        head_dim=width,
        hidden_size=groups * kv * width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
    )
    assert count_parameters(config) == real_model(config).components


@pytest.mark.parametrize("model_type", sorted(LAYOUTS))
def test_a_real_adapter_has_the_parameters_counted(model_type, small, assert_lora):
    assert_lora(config_of(small, model_type))
