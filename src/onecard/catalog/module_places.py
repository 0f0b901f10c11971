"""Where transformers puts the Linears of each architecture: the stack of layers, and the place in a layer. Data, checked on real models."""

from __future__ import annotations

# Where the layers of a language model stand, by model_type; `model.layers` otherwise.
STACKS = {
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "mpt": "transformer.blocks",
    **dict.fromkeys(("falcon", "bloom", "codegen", "gpt2", "gpt_bigcode", "gpt_neo", "gptj"), "transformer.h"),
}
# Where towers and projectors stand inside a composite model, first as transformers names them now, then as it did before 4.52.
Spellings = tuple[tuple[str, ...], tuple[str, ...]]
TOWERS: dict[str, Spellings] = {
    "vision_tower": (
        ("model.vision_tower.encoder.layers", "model.vision_tower.vision_model.encoder.layers"),
        ("vision_tower.vision_model.encoder.layers",),
    ),
    "audio_tower": (("model.audio_tower.layers", "model.embed_audio"), ("audio_tower.layers", "embed_audio")),
    "projector": (
        ("model.multi_modal_projector", "model.embed_vision"),
        ("multi_modal_projector", "embed_vision"),
    ),
    "qformer": (("qformer.encoder.layer",), ()),
}
_VISUAL: Spellings = (("model.visual.blocks", "model.visual.merger"), ("visual.blocks", "visual.merger"))
TOWERS_OF: dict[str, dict[str, Spellings]] = {
    "mistral3": {
        "vision_tower": (("model.vision_tower.transformer.layers",), ("vision_tower.transformer.layers",)),
    },
    "blip-2": {
        "vision_tower": (("vision_model.encoder.layers",), ()),
        "projector": (("language_projection",), ()),
    },
    "qwen2_vl": {"vision_tower": _VISUAL},
    "qwen2_5_vl": {"vision_tower": _VISUAL},
    "qwen3_vl": {"vision_tower": _VISUAL},
    "qwen3_5": {"vision_tower": _VISUAL},
    "qwen3_5_moe": {"vision_tower": _VISUAL},
    "muse_glimmer": {
        "vision_tower": (("model.vision_tower.layers",), ()),
        "projector": (("model.vision_adapter", "model.vision_projection"), ()),
    },
}

# Composite models whose language model had no part of its own before 4.52.
FLAT_BEFORE = ("qwen2_vl", "qwen2_5_vl")

# Where a Linear stands in its layer, by its name; by the order a layout lists them where there are several of that name.
_ATTENTION = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
)
PLACES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_ATTENTION, ("self_attn",)),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj", "gate_up_proj"), ("mlp", "mlp.shared_experts")),
    **dict.fromkeys(("c_fc", "c_proj", "fc1", "fc2", "fc_in", "fc_out", "dense_h_to_4h", "dense_4h_to_h"), ("mlp",)),
    **dict.fromkeys(
        ("in_proj_qkv", "in_proj_qkvz", "in_proj_ba", "in_proj_z", "in_proj_b", "in_proj_a"), ("linear_attn",)
    ),
    "shared_expert_gate": ("mlp",),
    **dict.fromkeys(("per_layer_input_gate", "per_layer_projection"), ("",)),
}
_QWEN_MIXTURE: dict[str, tuple[str, ...]] = {
    "out_proj": ("linear_attn",),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), ("mlp.shared_expert",)),
}
PLACES_OF: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt_neox": dict.fromkeys(("query_key_value", "dense"), ("attention",)),
    "falcon": dict.fromkeys(("query_key_value", "dense"), ("self_attention",)),
    "bloom": dict.fromkeys(("query_key_value", "dense"), ("self_attention",)),
    "mpt": {"Wqkv": ("attn",), "out_proj": ("attn",), "up_proj": ("ffn",), "down_proj": ("ffn",)},
    "opt": {"out_proj": ("self_attn",), "fc1": ("",), "fc2": ("",)},
    "phi": {"dense": ("self_attn",)},
    "muse_glimmer_text": {"gate_proj": ("self_attn", "mlp")},
    "gemma4_text": {"proj": ("router",)},
    "nemotron_h": {
        **dict.fromkeys((*_ATTENTION, "in_proj", "out_proj"), ("mixer",)),
        **dict.fromkeys(("up_proj", "down_proj"), ("mixer", "mixer.shared_experts")),
    },
    "qwen3_5_text": {"out_proj": ("linear_attn",)},
    "qwen3_5_moe_text": _QWEN_MIXTURE,
    "qwen3_next": _QWEN_MIXTURE,
    "qwen2_moe": dict.fromkeys(("gate_proj", "up_proj", "down_proj"), ("mlp", "mlp.shared_expert")),
}
ANYWHERE = ("", "self_attn", "attn", "attention", "mlp", "mixer", "linear_attn", "block_sparse_moe", "mamba")
PLAIN_MLP = (
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "dots1",
)  # their first layers; elsewhere a gated MLP stands in `mlp` only
DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")

# The config of a part, whose depth says how many layers it has, and where a Linear may stand in a layer of it or in the part itself.
NESTED = {"vision_tower": "vision_config", "audio_tower": "audio_config", "qformer": "qformer_config"}
_WRAPPED = tuple(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
INSIDE_TOWERS = (
    "self_attn", "attn", "attention", "mlp", "feed_forward", "", *_WRAPPED, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
INSIDE_PARTS = ("", "patch_merger", "patch_embedder")

# How often a full layer comes where the config does not say, and which kind of layer has a Linear that two kinds could have.
PERIODS = {
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), 4),
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), 6),
}
_MAMBA = ("linear_attention", "mamba", "M")
_MLP = ("moe", "mlp", "E", "-")
KINDS_OF = {"in_proj": _MAMBA, "out_proj": _MAMBA, "up_proj": _MLP, "down_proj": _MLP}
