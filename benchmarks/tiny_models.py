"""Tiny configs of every architecture the catalog can count, at a chosen number of layers: what programs here build random models of.

Experts met by a token, patterns of layers and biases are those of the published models; widths are as small as the code allows.
"""

from __future__ import annotations

from typing import Any

MAIN = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"n_embd": 64, "n_head": 4, "n_positions": 256, "vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2}
MLA = {"num_key_value_heads": 4, "kv_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 20}
ROUTED = {"n_routed_experts": 16, "moe_intermediate_size": 24, "first_k_dense_replace": 0, "n_shared_experts": 1}
SPARSE = {"num_experts": 16, "moe_intermediate_size": 24}
DELTA = {
    "head_dim": 24,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 8}
ALONE = {"hidden_size": 64, "vocab_size": 320, "state_size": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
}
VISION |= {"patch_size": 14}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64}

# By model_type: the key that holds the number of layers, the shortest run of layers that holds the whole pattern, and what is special.
SPECIAL: dict[str, tuple[str, int, dict[str, Any]]] = {
    "apertus": ("num_hidden_layers", 2, {}),
    "bamba": ("num_hidden_layers", 9, {**MAMBA2, "attn_layer_indices": [4, 13]}),
    "bloom": ("n_layer", 2, {"hidden_size": 64, "n_head": 4, "vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2}),
    "codegen": ("n_layer", 2, {**GPT2, "rotary_dim": 8}),
    "cohere2": ("num_hidden_layers", 4, {"sliding_window": 64}),
    "deepseek_v2": (
        "num_hidden_layers",
        2,
        {
            **MLA,
            **ROUTED,
            "q_lora_rank": None,
            "num_experts_per_tok": 6,
            "n_shared_experts": 2,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "deepseek_v3": (
        "num_hidden_layers",
        2,
        {**MLA, **ROUTED, "q_lora_rank": 32, "num_experts_per_tok": 8, "n_group": 4, "topk_group": 2},
    ),
    "dots1": ("num_hidden_layers", 2, {**ROUTED, "num_experts_per_tok": 6, "n_shared_experts": 2}),
    "ernie4_5_moe": (
        "num_hidden_layers",
        2,
        {
            "moe_num_experts": 16,
            "moe_k": 6,
            "moe_num_shared_experts": 2,
            "moe_intermediate_size": 24,
            "moe_layer_start_index": 0,
        },
    ),
    "exaone4": ("num_hidden_layers", 4, {"sliding_window": 64}),
    "falcon": ("num_hidden_layers", 2, {}),
    "falcon_h1": ("num_hidden_layers", 2, {**MAMBA2, "mamba_d_ssm": 128}),
    "falcon_mamba": ("num_hidden_layers", 2, ALONE),
    "gemma2": ("num_hidden_layers", 2, {"head_dim": 16, "sliding_window": 64}),
    "gemma3_text": ("num_hidden_layers", 6, {"head_dim": 16, "sliding_window": 64}),
    "gemma4_text": (
        "num_hidden_layers",
        6,
        {"head_dim": 16, "global_head_dim": 16, "sliding_window": 64, "hidden_size_per_layer_input": 0},
    ),
    "gemma4_unified_text": ("num_hidden_layers", 6, {"head_dim": 16, "global_head_dim": 16, "sliding_window": 64}),
    "glm4_moe": ("num_hidden_layers", 2, {**ROUTED, "num_experts_per_tok": 8, "use_qk_norm": True}),
    "glm4_moe_lite": ("num_hidden_layers", 2, {**MLA, **ROUTED, "q_lora_rank": 32, "num_experts_per_tok": 4}),
    "gpt2": ("n_layer", 2, GPT2),
    "gpt_bigcode": ("n_layer", 2, GPT2),
    "gpt_neo": (
        "num_layers",
        2,
        {"hidden_size": 64, "num_heads": 4, "vocab_size": 320, "max_position_embeddings": 256, "window_size": 64},
    ),
    "gpt_oss": (
        "num_hidden_layers",
        2,
        {"head_dim": 16, "num_local_experts": 16, "num_experts_per_tok": 4, "sliding_window": 64},
    ),
    "gptj": ("n_layer", 2, {**GPT2, "rotary_dim": 8}),
    "granitemoe": ("num_hidden_layers", 2, {"num_local_experts": 16, "num_experts_per_tok": 8}),
    "granitemoehybrid": (
        "num_hidden_layers",
        10,
        {**MAMBA2, "num_local_experts": 16, "num_experts_per_tok": 8, "shared_intermediate_size": 40},
    ),
    "granitemoeshared": (
        "num_hidden_layers",
        2,
        {"num_local_experts": 16, "num_experts_per_tok": 8, "shared_intermediate_size": 40},
    ),
    "hunyuan_v1_dense": ("num_hidden_layers", 2, {"head_dim": 16}),
    "jamba": ("num_hidden_layers", 8, {"num_experts": 16, "num_experts_per_tok": 2}),
    "lfm2": ("num_hidden_layers", 8, {"full_attn_idxs": [2, 5, 7, 10, 13, 15]}),
    "lfm2_moe": (
        "num_hidden_layers",
        8,
        {**SPARSE, "num_experts_per_tok": 4, "num_dense_layers": 0},
    ),
    "mamba": ("num_hidden_layers", 2, ALONE),
    "mamba2": ("num_hidden_layers", 2, {**ALONE, "num_heads": 8, "head_dim": 16, "n_groups": 2}),
    "minicpm3": ("num_hidden_layers", 2, {**MLA, "q_lora_rank": 32}),
    "ministral": ("num_hidden_layers", 4, {"head_dim": 16, "sliding_window": 64}),
    "mixtral": ("num_hidden_layers", 2, {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "mpt": ("n_layers", 2, {"d_model": 64, "n_heads": 4, "vocab_size": 320, "max_seq_len": 256}),
    "nemotron_h": (
        "num_hidden_layers",
        4,
        {
            "head_dim": 16,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 2,
            "n_routed_experts": 16,
            "moe_intermediate_size": 24,
            "moe_shared_expert_intermediate_size": 40,
            "num_experts_per_tok": 6,
        },
    ),
    "olmo3": ("num_hidden_layers", 4, {"sliding_window": 64}),
    "olmoe": ("num_hidden_layers", 2, {"num_experts": 16, "num_experts_per_tok": 8}),
    "opt": ("num_hidden_layers", 2, {"ffn_dim": 144, "word_embed_proj_dim": 64}),
    "phimoe": ("num_hidden_layers", 2, {"num_local_experts": 16, "num_experts_per_tok": 2}),
    "qwen2_moe": ("num_hidden_layers", 2, {**SPARSE, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 40}),
    "qwen3_5_moe_text": (
        "num_hidden_layers",
        4,
        {**DELTA, **SPARSE, "num_experts_per_tok": 8, "shared_expert_intermediate_size": 40},
    ),
    "qwen3_5_text": ("num_hidden_layers", 4, DELTA),
    "qwen3_moe": ("num_hidden_layers", 2, {**SPARSE, "num_experts_per_tok": 8}),
    "qwen3_next": (
        "num_hidden_layers",
        4,
        {**DELTA, **SPARSE, "num_experts_per_tok": 10, "shared_expert_intermediate_size": 40},
    ),
    "qwen3_vl_moe_text": ("num_hidden_layers", 2, {**SPARSE, "num_experts_per_tok": 8}),
    "smollm3": ("num_hidden_layers", 4, {}),
    "muse_glimmer_text": ("num_hidden_layers", 4, {"sliding_window": 64}),
}
# Types whose own keys are not the common ones.
WITHOUT_MAIN = ("bloom", "codegen", "falcon_mamba", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mamba", "mamba2", "mpt")

MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}}
SPECIAL |= dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), ("num_hidden_layers", 2, MROPE))

# Models with an encoder, counted as they answer text: the language model inside and the encoder's config.
COMPOSITE: dict[str, tuple[str, dict[str, Any]]] = {
    "blip-2": ("opt", {**VISION}),
    "gemma3": ("gemma3_text", {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}),
    "gemma4": ("gemma4_text", {}),
    "gemma4_unified": ("gemma4_unified_text", {}),
    "idefics3": ("llama", VISION),
    "llava": ("llama", {**VISION, "model_type": "clip_vision_model"}),
    "llava_next": ("llama", {**VISION, "model_type": "clip_vision_model"}),
    "mistral3": ("ministral3", {**VISION, "model_type": "pixtral"}),
    "muse_glimmer": ("muse_glimmer_text", VISION),
    "qwen2_vl": ("qwen2_vl_text", {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 4}),
    "qwen2_5_vl": ("qwen2_5_vl_text", QWEN_VISION),
    "qwen3_5": ("qwen3_5_text", QWEN_VISION),
    "qwen3_5_moe": ("qwen3_5_moe_text", QWEN_VISION),
    "qwen3_vl": ("qwen3_vl_text", {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}),
    "qwen3_vl_moe": (
        "qwen3_vl_moe_text",
        {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    ),
    "smolvlm": ("llama", VISION),
}


def tiny_models(model_type: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Two configs, the second with more layers, and how many more: one whole pattern of layers."""
    if model_type in COMPOSITE:
        inside, vision = COMPOSITE[model_type]
        shallow, deep, layers = tiny_models(inside)
        outer = {"model_type": model_type, **({"vision_config": vision} if vision else {})}
        return {**outer, "text_config": shallow}, {**outer, "text_config": deep}, layers
    key, layers, own = SPECIAL.get(model_type, ("num_hidden_layers", 2, {}))
    shared = {} if model_type in WITHOUT_MAIN else MAIN
    configs = []
    for depth in (layers, 2 * layers):
        config = {**shared, **own, "model_type": model_type, key: depth}
        config |= _pattern(model_type, depth)
        configs.append(config)
    return configs[0], configs[1], layers


def _pattern(model_type: str, depth: int) -> dict[str, Any]:
    """Lists of layers, for architectures that have no rule of their own."""
    if model_type == "granitemoehybrid":
        return {"layer_types": ["full_attention" if n % 10 == 5 else "linear_attention" for n in range(depth)]}
    if model_type == "nemotron_h":
        return {"hybrid_override_pattern": "MEM*" * (depth // 4)}
    if model_type == "gpt_neo":
        return {"attention_types": [[["global", "local"], depth // 2]]}
    if model_type == "bamba":
        return {"attn_layer_indices": list(range(4, depth, 9))}
    if model_type == "glm4_moe_lite":
        return {"mlp_layer_types": ["sparse"] * depth}
    if model_type == "lfm2_moe":
        return {"layer_types": ["full_attention" if n % 8 in (2, 6) else "conv" for n in range(depth)]}
    if model_type == "ministral":
        return {"layer_types": ["full_attention" if n % 4 == 0 else "sliding_attention" for n in range(depth)]}
    if model_type == "lfm2":
        return {"full_attn_idxs": [n for n in range(depth) if n % 8 in (2, 5, 7)]}
    return {}
