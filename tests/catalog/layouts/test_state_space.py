"""State-space layers and short convolutions against transformers' own models and states, and vLLM's form of the same."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import kv_shape, layout, lora_targets
from onecard.catalog.layouts.state_space import LAYOUTS
from onecard.errors import CatalogError

MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
}
JAMBA = {"num_hidden_layers": 8, "num_experts": 4, "attn_layer_period": 4, "attn_layer_offset": 2}
GRANITE = {
    **MAMBA2,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 40,
}
LFM2_MOE = {
    "layer_types": ["conv", "full_attention", "conv", "conv"],
    "num_dense_layers": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
ALONE = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 320, "state_size": 8}
VARIANTS = {
    "bamba": {**MAMBA2, "attn_layer_indices": [1, 3]},
    "bamba-switched": {
        "mamba_n_heads": 8,
        "mamba_d_state": 8,
        "mamba_expand": 3,
        "attn_layer_indices": None,
        "attention_bias": True,
        "mlp_bias": True,
        "mamba_proj_bias": True,
        "mamba_conv_bias": False,
        "tie_word_embeddings": True,
    },
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 128},
    "falcon_h1-switched": {
        **MAMBA2,
        "mamba_d_head": "auto",
        "mamba_d_ssm": None,
        "mamba_rms_norm": True,
        "projectors_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "granitemoehybrid": GRANITE,
    "granitemoehybrid-dense": {**GRANITE, "num_local_experts": 0, "attention_bias": True, "mamba_proj_bias": True},
    "granitemoehybrid-only-mamba": {**GRANITE, "layer_types": None},
    "jamba": JAMBA,
    "jamba-dense": {**JAMBA, "num_experts": 1, "mamba_proj_bias": True, "mamba_conv_bias": False, "mamba_dt_rank": 7},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "lfm2-by-number": {"full_attn_idxs": [2], "conv_bias": True, "conv_L_cache": 5, "intermediate_size": 500},
    "lfm2-all-attention": {"block_auto_adjust_ff_dim": False},
    "lfm2_moe": LFM2_MOE,
    "lfm2_moe-bias": {**LFM2_MOE, "conv_bias": True, "num_dense_layers": 3, "tie_word_embeddings": False},
    "lfm2-factor": {"full_attn_idxs": [1], "block_ffn_dim_multiplier": 1.7, "block_multiple_of": 48},
}
MAMBAS = {
    "mamba": ALONE,
    "mamba-switched": {**ALONE, "use_bias": True, "use_conv_bias": False, "time_step_rank": 7, "conv_kernel": 3},
    "mamba-own-width": {**ALONE, "intermediate_size": 112, "tie_word_embeddings": False},
    "falcon_mamba": {**ALONE, "expand": 3},
    "mamba2": {**ALONE, "num_heads": 8, "head_dim": 16, "n_groups": 2},
    "mamba2-switched": {
        **ALONE,
        "num_heads": 6,
        "head_dim": 32,
        "expand": 3,
        "n_groups": 2,
        "use_bias": True,
        "use_conv_bias": False,
        "tie_word_embeddings": True,
    },
}
ALL = (*VARIANTS, *MAMBAS)


def config_of(small, variant):
    model_type = variant.partition("-")[0]
    return (
        {**MAMBAS[variant], "model_type": model_type} if variant in MAMBAS else small(model_type, **VARIANTS[variant])
    )


def test_every_architecture_of_the_file_has_a_variant():
    assert {variant.partition("-")[0] for variant in ALL} == set(LAYOUTS)


@pytest.mark.parametrize("variant", ALL)
def test_weights_are_those_of_the_real_model(variant, small, assert_weights):
    assert_weights(config_of(small, variant))


# transformers 5.19 builds these two kinds without an attention layer, but cannot run them: it asks that layer for the length.
NOT_RUN = ("bamba-switched", "granitemoehybrid-only-mamba")


@pytest.mark.parametrize("variant", [variant for variant in ALL if variant not in NOT_RUN])
def test_cache_and_state_are_those_of_a_real_forward(variant, small, held_by_a_forward):
    config = config_of(small, variant)
    assert kv_shape(config).bytes_for(17, 2) == held_by_a_forward(config, 17, 2)


def test_a_state_does_not_grow_and_no_cache_dtype_shrinks_it():
    kv = kv_shape({**ALONE, "model_type": "mamba"})
    assert kv.bytes_per_token() == 0
    assert kv.bytes_for(1) == kv.bytes_for(100_000, dtype_bytes=1) == 3 * (128 * 4 * 2 + 128 * 8 * 4)


def test_vllm_keeps_one_input_fewer_and_the_state_in_16_bits(small):
    kv = kv_shape(config_of(small, "bamba"))
    channels = 128 + 2 * 2 * 8
    assert kv.held_by("vllm").fixed_state_bytes == 2 * (channels * 3 * 2 + 128 * 8 * 2)
    assert kv.held_by("vllm").bytes_per_token() == kv.bytes_per_token() == 2 * 2 * 2 * 16 * 2


def test_a_model_without_recurrent_layers_is_held_alike_everywhere(small):
    kv = kv_shape(config_of(small, "lfm2-all-attention"))
    assert kv.fixed_state_bytes == 0
    assert kv.held_by("vllm") == kv


def test_older_names_of_layers_mean_the_same(small):
    old = {**GRANITE, "layers_block_type": ["mamba", "attention", "mamba", "mamba"]}
    del old["layer_types"]
    assert layout(small("granitemoehybrid", **old)) == layout(small("granitemoehybrid", **GRANITE))


def test_published_configs_give_published_sizes():
    mamba = {"model_type": "mamba", "hidden_size": 2560, "num_hidden_layers": 64, "vocab_size": 50280}
    assert layout(mamba).parameters == 2_768_345_600
    jamba = {
        "model_type": "jamba",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 65536,
    }
    assert layout(jamba).parameters == 51_570_323_328


def test_lora_leaves_routers_alone(small):
    assert "router" not in lora_targets(config_of(small, "jamba"))


@pytest.mark.parametrize(
    ("variant", "keys", "said"),
    [
        ("mamba2", {"num_heads": 7}, "num_heads: 7 heads do not share a width of 128"),
        ("bamba", {"mamba_n_heads": 7}, "mamba_n_heads: 7 heads do not share"),
        ("jamba", {"attn_layer_offset": 4}, "attn_layer_offset: an offset of 4 in a period of 4"),
        ("lfm2_moe", {"layer_types": None}, "needs layer_types and this one lacks it"),
        ("lfm2-factor", {"block_ffn_dim_multiplier": "wide"}, "block_ffn_dim_multiplier: 'wide' is not a factor"),
        ("granitemoehybrid", {"layer_types": ["conv"] * 4}, "layer_types: layer 'conv' is not known"),
    ],
)
def test_what_does_not_fit_together_is_named(small, variant, keys, said):
    with pytest.raises(CatalogError, match=said):
        layout({**config_of(small, variant), **keys})


@pytest.mark.parametrize("model_type", sorted(LAYOUTS))
def test_a_real_adapter_has_the_parameters_counted(model_type, small, assert_lora):
    assert_lora(config_of(small, model_type))
