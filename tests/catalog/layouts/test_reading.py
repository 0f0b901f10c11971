"""Configs of people who slip: whatever stands in one, it is counted consistently or refused by its key, and nothing else happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.architecture import known_architectures, layout
from onecard.catalog.layouts.defaults import DEFAULTS
from onecard.errors import CatalogError

# Enough for every architecture to be counted: the main sizes under each of their names.
ANY = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "d_model": 64,
    "n_layers": 4,
    "n_heads": 4,
    "num_layers": 4,
    "num_heads": 8,
    "ffn_dim": 144,
    "head_dim": 16,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "layers_block_type": ["mamba", "moe", "attention", "mlp"],
    "moe_shared_expert_intermediate_size": 40,
    "mamba_n_heads": 8,
    "mamba_d_head": "auto",
    "mamba_d_ssm": 128,
}
ANY_VISION = {"num_hidden_layers": 2, "depth": 2, "vision_use_head": False}


def any_config(model_type):
    config = {**ANY, "model_type": model_type}
    text = {k: v for k, v in ANY.items() if k != "layers_block_type"}
    config |= {"text_config": text, "vision_config": dict(ANY_VISION), "qformer_config": {}}
    if model_type == "lfm2_moe":
        config["layer_types"] = ["conv", "full_attention", "conv", "conv"]
    if model_type == "gpt_neo":
        config["attention_types"] = [[["global", "local"], 2]]
        config["num_heads"] = 4  # the same key as num_attention_heads
    if model_type == "falcon":
        del config["head_dim"]  # its class has none to set
    return {k: v for k, v in config.items() if model_type == "nemotron_h" or k != "layers_block_type"}


@pytest.mark.parametrize("model_type", known_architectures())
def test_main_sizes_are_enough(model_type):
    assert_consistent(layout(any_config(model_type)))


@pytest.mark.parametrize("model_type", known_architectures())
def test_what_transformers_saves_of_a_config_has_the_same_layout(model_type, saved):
    assert layout(saved(any_config(model_type))) == layout(any_config(model_type))


def assert_consistent(whole):
    assert whole.parameters == sum(whole.components.values()) > 0
    assert all(isinstance(count, int) and count > 0 for count in whole.components.values())
    assert all(s.in_features > 0 < s.out_features and s.count > 0 for s in whole.linears)
    for kv in (whole.kv, whole.kv.held_by("vllm")):
        assert 0 <= kv.bytes_for(0) <= kv.bytes_for(1) <= kv.bytes_for(10**6, 3)
        assert kv.bytes_per_token() <= kv.bytes_per_token(latent=False)
        assert min(kv.layers_full, kv.layers_sliding, kv.window, kv.fixed_state_bytes) >= 0


KEYS = sorted({*ANY, *ANY_VISION, *(key for keys in DEFAULTS.values() for key in keys)} | {
    "text_config", "vision_config", "audio_config", "qformer_config", "layer_types", "mlp_only_layers", "attn_layer_indices",
    "full_attn_idxs", "hybrid_override_pattern", "sliding_window_pattern", "full_attention_interval", "quantization_config",
    "global_head_dim", "num_global_key_value_heads", "top_k_experts", "subsampling_conv_channels", "vision_feature_layer",
    "per_layer_config", "image_token_index", "architectures", "model_type", "moe_latent_size", "ffn_hidden_size", "num_ln_in_parallel_attn",
})  # fmt: skip
NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from(
        [10**6, 10**9, 10**12, 2**63, -(10**20), 0.5, 64.0, float("nan"), float("inf"), "", "64", "auto", "x"]
    ),
    st.lists(st.one_of(st.integers(-2, 6), st.none(), st.text(max_size=3), st.booleans()), max_size=5),
    st.dictionaries(st.sampled_from(KEYS), st.integers(-1, 99), max_size=3),
)


@settings(max_examples=250, deadline=None)
@given(
    model_type=st.sampled_from(known_architectures()),
    changes=st.dictionaries(st.sampled_from(KEYS), NONSENSE, max_size=3),
    inside=st.dictionaries(st.sampled_from(KEYS), NONSENSE, max_size=2),
    part=st.sampled_from(["text_config", "vision_config", "audio_config", "qformer_config"]),
    without=st.sets(st.sampled_from(KEYS), max_size=2),
)
def test_any_config_is_counted_or_refused_as_a_catalog_error(model_type, changes, inside, part, without):
    config = any_config(model_type)
    if inside:
        config[part] = {**(config.get(part) or {}), **inside}
    config = {k: v for k, v in (config | changes).items() if k not in without}
    try:
        whole = layout(config)
    except CatalogError as error:
        assert error.where.startswith("config.json")
    else:
        assert_consistent(whole)


@settings(max_examples=100, deadline=None)
@given(
    model_type=st.sampled_from(known_architectures()),
    key=st.sampled_from(
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "n_embd", "n_layer", "d_model"]
    ),
    value=st.sampled_from([None, 0, -1, 1.5, "4096", True, 10**12, [64]]),
)
def test_a_wrong_main_size_is_named_by_its_key(model_type, key, value):
    config = any_config(model_type)
    try:
        same = layout(config) == layout({**config, key: value})
    except CatalogError as error:
        assert key in error.where or key in error.problem
    else:
        assert same  # the architecture does not read that key at all


def test_very_large_models_that_hold_together_are_counted():
    giant = layout(
        {
            "model_type": "llama",
            "hidden_size": 131_072,
            "intermediate_size": 524_288,
            "num_hidden_layers": 1_000,
            "num_attention_heads": 1_024,
            "num_key_value_heads": 64,
            "vocab_size": 4_000_000,
        }
    )
    assert giant.parameters > 2 * 10**14
    assert giant.kv.bytes_for(10**7) == 10**7 * 1_000 * 64 * 128 * 2 * 2
