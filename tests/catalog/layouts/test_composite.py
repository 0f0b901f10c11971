"""Composite configs as published: nested parts that name only what differs from the class, encoders other than the usual one."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import count_parameters, layout
from onecard.catalog.models import find_model

PUBLISHED = {
    "llava-1.5": {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    },
    "blip-2": {
        "model_type": "blip-2",
        "architectures": ["Blip2ForConditionalGeneration"],
        "qformer_config": {"model_type": "blip_2_qformer"},
        "text_config": {
            "model_type": "opt",
            "ffn_dim": 10240,
            "hidden_size": 2560,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "vocab_size": 50304,
            "word_embed_proj_dim": 2560,
        },
        "vision_config": {"model_type": "blip_2_vision_model"},
    },
    "gemma-3": {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "num_attention_heads": 16,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "sliding_window": 1024,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "several-feature-layers": {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": {"model_type": "mistral", "num_hidden_layers": 2},
        "vision_config": {"model_type": "pixtral", "num_hidden_layers": 3, "patch_size": 14},
        "vision_feature_layer": [-2, -1],
        "multimodal_projector_bias": False,
        "tie_word_embeddings": True,
    },
    "gemma-4-without-sound": {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "text_config": {"model_type": "gemma4_text", "num_hidden_layers": 6, "vocab_size_per_layer_input": 320},
    },
    "muse-tied-inside": {
        "model_type": "muse_glimmer",
        "architectures": ["MuseGlimmerForConditionalGeneration"],
        "text_config": {"model_type": "muse_glimmer_text", "num_hidden_layers": 4},
        "vision_config": {"model_type": "muse_glimmer_vision", "num_hidden_layers": 2},
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sparse_nested_configs_count_as_transformers_builds_them(name, real_model):
    assert count_parameters(PUBLISHED[name]) == real_model(PUBLISHED[name]).components


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("llava-1.5", "llava-hf/llava-1.5-7b-hf"),
        ("blip-2", "Salesforce/blip2-opt-2.7b"),
        ("gemma-3", "google/gemma-3-12b-it"),
    ],
)
def test_the_catalog_writes_out_what_the_published_config_leaves_out(name, model_id):
    assert layout(PUBLISHED[name]) == find_model(model_id).layout
