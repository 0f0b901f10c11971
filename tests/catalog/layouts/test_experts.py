"""Mixtures of experts against transformers' own models: experts, routers, shared experts, layers that stay dense."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import kv_shape, layout
from onecard.catalog.layouts.experts import LAYOUTS
from onecard.errors import CatalogError

ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 2, "moe_intermediate_size": 24}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
VARIANTS = {
    "dots1": ROUTED,
    "dots1-sliding": {**ROUTED, "sliding_window": 64, "max_window_layers": 2, "attention_bias": True},
    "ernie4_5_moe": ERNIE,
    "ernie4_5_moe-some": {
        **ERNIE,
        "num_hidden_layers": 7,
        "moe_layer_start_index": 2,
        "moe_layer_end_index": 5,
        "moe_layer_interval": 2,
        "moe_num_shared_experts": 0,
        "use_bias": True,
        "tie_word_embeddings": False,
    },
    "glm4_moe": {**ROUTED, "head_dim": 24},
    "glm4_moe-switched": {**ROUTED, "attention_bias": True, "use_qk_norm": True, "first_k_dense_replace": 0},
    "granitemoe": LOCAL,
    "granitemoe-tied": {**LOCAL, "attention_bias": True, "tie_word_embeddings": True},
    "granitemoeshared": {**LOCAL, "shared_intermediate_size": 40},
    "granitemoeshared-none": LOCAL,
    "mixtral": {**LOCAL, "head_dim": 24},
    "mixtral-sliding": {**LOCAL, "sliding_window": 64, "tie_word_embeddings": True},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "olmoe-bias": {"num_experts": 4, "num_experts_per_tok": 2, "attention_bias": True},
    "phimoe": {**LOCAL, "sliding_window": 64},
    "phimoe-biases": {**LOCAL, "attention_bias": True, "lm_head_bias": True},
    "qwen2_moe": {**SPARSE, "shared_expert_intermediate_size": 40},
    "qwen2_moe-dense-some": {
        **SPARSE,
        "shared_expert_intermediate_size": 40,
        "num_hidden_layers": 6,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
        "qkv_bias": False,
    },
    "qwen2_moe-sliding": {
        **SPARSE,
        "shared_expert_intermediate_size": 40,
        "use_sliding_window": True,
        "sliding_window": 64,
        "max_window_layers": 3,
    },
    "qwen3_moe": {**SPARSE, "head_dim": 24},
    "qwen3_moe-dense-first": {**SPARSE, "head_dim": 24, "attention_bias": True, "mlp_only_layers": [0]},
    "qwen3_moe-sliding": {**SPARSE, "use_sliding_window": True, "sliding_window": 64},
}


# Language models that exist inside another model only: held against it in test_qwen_vision.py.
INSIDE_ONLY = {"qwen3_vl_moe_text"}


def config_of(small, variant):
    return small(variant.partition("-")[0], **VARIANTS[variant])


def test_every_architecture_of_the_file_has_a_variant():
    assert {variant.partition("-")[0] for variant in VARIANTS} == set(LAYOUTS) - INSIDE_ONLY


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_those_of_the_real_model(variant, small, assert_weights):
    assert_weights(config_of(small, variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_is_that_of_a_real_forward(variant, small, held_by_a_forward):
    config = config_of(small, variant)
    assert kv_shape(config).bytes_for(17, 2) == held_by_a_forward(config, 17, 2)


@pytest.mark.parametrize("variant", ["dots1-sliding", "qwen2_moe-sliding", "qwen3_moe-sliding", "mixtral-sliding"])
def test_layers_that_slide_are_those_of_the_real_cache(variant, small):
    from transformers import CONFIG_MAPPING, DynamicCache

    config = config_of(small, variant)
    keys = {k: v for k, v in config.items() if k != "model_type"}
    layers = DynamicCache(config=CONFIG_MAPPING[config["model_type"]](**keys)).layers
    assert kv_shape(config).layers_sliding == sum(layer.is_sliding for layer in layers) > 0


def test_published_configs_give_published_sizes():
    mixtral = layout(
        {
            "model_type": "mixtral",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "vocab_size": 32000,
        }
    )
    assert mixtral.parameters == 46_702_792_704
    qwen = layout(
        {
            "model_type": "qwen3_moe",
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": False,
        }
    )
    assert qwen.parameters == 30_532_122_624


def test_the_number_of_experts_has_two_names():
    by_one, by_other = dict(SPARSE), {**SPARSE, "num_local_experts": 4}
    del by_other["num_experts"]
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    both = [layout({"model_type": "qwen3_moe", "vocab_size": 320, **sizes, **keys}) for keys in (by_one, by_other)]
    assert both[0] == both[1]


def test_a_list_of_layers_that_is_none_is_refused(small):
    with pytest.raises(CatalogError, match=r"mlp_only_layers: 'all' is no list of layers"):
        layout(small("qwen3_moe", **{**SPARSE, "mlp_only_layers": "all"}))


@pytest.mark.parametrize("model_type", sorted(set(LAYOUTS) - INSIDE_ONLY))
def test_a_real_adapter_has_the_parameters_counted(model_type, small, assert_lora):
    assert_lora(config_of(small, model_type))
