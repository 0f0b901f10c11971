"""Qwen's vision-language models and SmolVLM's kin against transformers' own, nested and flat configs alike."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import layout
from onecard.errors import CatalogError

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}
QWEN2_VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "patch_size": 14, "mlp_ratio": 3}
QWEN2_5_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64}
QWEN3_VISION = {**QWEN2_5_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
CONFIGS = {
    "qwen2_vl-flat": {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        **TEXT,
        "vision_config": QWEN2_VISION,
    },
    "qwen2_vl-flat-tied": {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        **TEXT,
        "tie_word_embeddings": True,
        "vision_config": QWEN2_VISION,
    },
    "qwen2_vl-nested": {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "text_config": TEXT,
        "vision_config": {**QWEN2_VISION, "model_type": "qwen2_vl"},
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "text_config": {**TEXT, "model_type": "qwen2_5_vl_text"},
        "vision_config": {**QWEN2_5_VISION, "spatial_merge_size": 3},
    },
    "qwen2_5_vl-flat": {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        **TEXT,
        "tie_word_embeddings": True,
        "vision_config": {**QWEN2_5_VISION, "model_type": "qwen2_5_vl"},
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {**TEXT, "head_dim": 24, "attention_bias": True},
        "vision_config": QWEN3_VISION,
    },
    "qwen3_vl-tied": {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {**TEXT, "head_dim": 24},
        "vision_config": {**QWEN3_VISION, "deepstack_visual_indexes": [1]},
        "tie_word_embeddings": True,
    },
    "qwen3_vl_moe": {
        "model_type": "qwen3_vl_moe",
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "text_config": {
            **TEXT,
            "head_dim": 24,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "mlp_only_layers": [1],
        },
        "vision_config": QWEN3_VISION,
    },
    "idefics3": {
        "model_type": "idefics3",
        "architectures": ["Idefics3ForConditionalGeneration"],
        "text_config": TEXT,
        "vision_config": SIGLIP,
        "scale_factor": 3,
    },
    "smolvlm": {
        "model_type": "smolvlm",
        "architectures": ["SmolVLMForConditionalGeneration"],
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**SIGLIP, "model_type": "smolvlm_vision"},
        "tie_word_embeddings": True,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_are_those_of_the_real_model(name, assert_weights):
    assert_weights(CONFIGS[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_is_that_of_the_language_model(name, held_by_a_forward):
    """The language model alone: images are tokens like any other to its cache."""
    plain = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe"}
    config = CONFIGS[name]
    text = dict(config.get("text_config", TEXT))
    text["model_type"] = plain.get(config["model_type"], "llama")
    assert layout(config).kv.bytes_for(17, 2) == held_by_a_forward(text, 17, 2)


def test_published_sizes_come_out():
    seven = {
        "model_type": "qwen2_5_vl",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
    }
    assert layout(seven).parameters == 8_292_166_656


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_config": None}, "needs text_config and this one lacks it"),
        ({"vision_config": {**QWEN3_VISION, "depth": 0}}, "depth: 0 is not a size"),
        ({"vision_config": {**QWEN3_VISION, "deepstack_visual_indexes": 3}}, "3 is no list of layers"),
    ],
)
def test_what_is_missing_is_named(change, said):
    with pytest.raises(CatalogError, match=said):
        layout({**CONFIGS["qwen3_vl"], **change})


def test_a_flat_config_needs_the_sizes_at_its_top():
    flat = {key: value for key, value in CONFIGS["qwen2_vl-flat"].items() if key != "vocab_size"}
    with pytest.raises(CatalogError, match="needs vocab_size and this one lacks it"):
        layout(flat)
