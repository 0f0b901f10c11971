"""Arithmetic against the real thing: transformers' models on the meta device, its bitsandbytes loader, and its caches."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.catalog.architecture import (
    count_parameters,
    known_architectures,
    kv_shape,
    layout,
    linear_shapes,
    lora_parameters,
    lora_targets,
)
from onecard.catalog.models import load_models
from onecard.errors import CatalogError

MODELS = {model.id: model for model in load_models()}

# A small decoder of each kind: sizes chosen so that no two products agree by accident.
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MPT = {"model_type": "mpt", "d_model": 64, "n_layers": 3, "n_heads": 4, "vocab_size": 320, "max_seq_len": 256}
OPT = {
    "model_type": "opt",
    "hidden_size": 64,
    "ffn_dim": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": 64,
}
FALCON = {k: v for k, v in SMALL.items() if k not in ("intermediate_size", "num_key_value_heads")} | {
    "model_type": "falcon"
}
LINEAR_ATTENTION = {
    "head_dim": 24,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
GEMMA4 = {**SMALL, "model_type": "gemma4_text", "head_dim": 16, "num_hidden_layers": 12, "sliding_window": 64}
GEMMA4 |= {"global_head_dim": 24, "vocab_size_per_layer_input": 160, "hidden_size_per_layer_input": 8}
NEMOTRON = {
    **{k: v for k, v in SMALL.items() if k != "num_hidden_layers"},
    "model_type": "nemotron_h",
    "head_dim": 16,
    "hybrid_override_pattern": "ME*-ME",
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "n_routed_experts": 4,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 40,
    "num_experts_per_tok": 2,
}


def small(model_type: str, **keys):
    return {**SMALL, "model_type": model_type, **keys}


VARIANTS = {
    "mistral": small("mistral"),
    "mistral-no-window": small("mistral", sliding_window=None, head_dim=24, tie_word_embeddings=True),
    "ministral": small("ministral", head_dim=16, sliding_window=64),
    "ministral-mixed": small(
        "ministral", head_dim=24, sliding_window=64, layer_types=["full_attention", "sliding_attention"] * 2
    ),
    "ministral3": small("ministral3", head_dim=24),
    "llama": small("llama"),
    "llama-biases": small("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-multi-head": {k: v for k, v in small("llama").items() if k != "num_key_value_heads"},
    "qwen2": small("qwen2"),
    "qwen2-sliding": small("qwen2", use_sliding_window=True, sliding_window=64, max_window_layers=3),
    "qwen3": small("qwen3", head_dim=24),
    "qwen3-default-head": small("qwen3", attention_bias=True),
    "phi3": small("phi3"),
    "phi3-sliding": small("phi3", sliding_window=64),
    "smollm3": small("smollm3"),
    "olmo3": small("olmo3", sliding_window=64),
    "gemma3_text": small("gemma3_text", head_dim=24, num_hidden_layers=7, sliding_window=64),
    "starcoder2": small("starcoder2"),
    "starcoder2-plain": small("starcoder2", use_bias=False, tie_word_embeddings=False, sliding_window=64),
    "gpt_neox": small("gpt_neox"),
    "gpt_neox-no-attention-bias": small("gpt_neox", attention_bias=False, tie_word_embeddings=True),
    "falcon-multi-query": {**FALCON, "alibi": False},
    "falcon-multi-head": {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
    "falcon-groups": {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 112},
    "mpt": MPT,
    "mpt-untied": {**MPT, "expansion_ratio": 2, "tie_word_embeddings": False},
    "opt": OPT,
    "opt-350m-like": {**OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False, "enable_bias": False},
    "gpt_oss": small("gpt_oss", head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=64),
    "qwen3_5_text": small("qwen3_5_text", **LINEAR_ATTENTION),
    "qwen3_5_moe_text": small(
        "qwen3_5_moe_text",
        **LINEAR_ATTENTION,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
    ),
    "gemma4_text-per-layer": {**GEMMA4, "num_kv_shared_layers": 6, "use_double_wide_mlp": True},
    "gemma4_text-one-for-both": {
        **GEMMA4,
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "gemma4_text-experts": {
        **GEMMA4,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
    },
    "nemotron_h": NEMOTRON,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_of_small_variants_are_those_of_the_real_model(variant, real_model):
    config = VARIANTS[variant]
    assert count_parameters(config) == real_model(config).components


@pytest.mark.parametrize("every_key", [True, False])
@pytest.mark.parametrize("config", [*(m.config for m in MODELS.values()), *VARIANTS.values()], ids=[*MODELS, *VARIANTS])
def test_what_transformers_saves_of_a_config_has_the_same_layout(config, every_key, saved):
    """The trap: Gemma 4's keys of full layers become `per_layer_config` when the model is saved."""
    assert layout(saved(config, every_key=every_key)) == layout(config)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model_type=st.sampled_from(["mistral", "llama", "qwen2", "qwen3", "olmo3", "phi3", "smollm3", "gemma3_text"]),
    groups=st.integers(1, 3),
    kv=st.integers(1, 4),
    width=st.sampled_from([8, 16, 24]),
    inner=st.integers(1, 200),
    layers=st.integers(1, 8),
    tied=st.booleans(),
)
def test_counts_of_any_grouped_query_decoder_are_exact(real_model, model_type, groups, kv, width, inner, layers, tied):
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


@pytest.mark.parametrize("model_id", MODELS)
def test_the_loader_converts_exactly_the_linears_marked_quantized(model_id, real_model):
    """For composite models too: which projector, tower or head stays in 16 bits decides gigabytes."""
    config = MODELS[model_id].config
    expected: Counter[tuple[str, str, int, int]] = Counter()
    for shape in linear_shapes(config, None):
        if shape.quantized:
            expected[shape.component, shape.module, shape.in_features, shape.out_features] += shape.count
    assert real_model(config).converted == expected


@pytest.mark.parametrize("model_id", MODELS)
def test_every_linear_of_the_real_model_is_listed_with_its_shape(model_id, real_model):
    config = MODELS[model_id].config
    listed: Counter[tuple[str, int, int, bool]] = Counter()
    for shape in linear_shapes(config, None):
        listed[shape.module, shape.in_features, shape.out_features, shape.bias] += shape.count
    assert listed == real_model(config).linears


RECURRENT = ("qwen3_5_text", "qwen3_5_moe_text", "nemotron_h")


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith(RECURRENT)])
def test_the_cache_of_a_real_forward_has_the_bytes_the_shape_says(variant):
    """Prompts shorter than the window; what is beyond it is covered by the arithmetic of `bytes_for`."""
    import torch
    import transformers

    config = dict(VARIANTS[variant])
    keys = {k: v for k, v in config.items() if k != "model_type"}
    real = transformers.AutoModelForCausalLM.from_config(
        transformers.CONFIG_MAPPING[config["model_type"]](**keys)
    ).eval()
    tokens, sequences = 17, 2
    with torch.no_grad():
        cache = real(torch.ones(sequences, tokens, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_shape(config).bytes_for(tokens, sequences, dtype_bytes=4) == held


@pytest.mark.parametrize("variant", RECURRENT)
def test_the_state_of_a_real_recurrent_forward_has_the_bytes_the_shape_says(variant):
    import torch
    import transformers

    config = dict(VARIANTS[variant])
    keys = {k: v for k, v in config.items() if k != "model_type"}
    real = transformers.AutoModelForCausalLM.from_config(
        transformers.CONFIG_MAPPING[config["model_type"]](**keys)
    ).eval()
    real = real.to(torch.bfloat16)
    tokens = 17
    with torch.no_grad():
        cache = real(torch.ones(1, tokens, dtype=torch.long), use_cache=True).past_key_values
    assert cache.layers
    kept = [state for layer in cache.layers for state in vars(layer).values()]
    states = [part for state in kept for part in (state.values() if isinstance(state, dict) else [state])]
    held = sum(tensor.nbytes for tensor in states if isinstance(tensor, torch.Tensor))
    assert kv_shape(config).bytes_for(tokens) == held


def test_beyond_its_window_a_sliding_cache_stops_growing():
    kv = kv_shape(small("phi3", sliding_window=64))
    assert kv.bytes_for(64) == kv.bytes_for(200) == 64 * kv.bytes_per_token()
    mixed = kv_shape(small("olmo3", sliding_window=64))
    assert mixed.bytes_for(65) - mixed.bytes_for(64) == mixed.full_bytes_per_token() < mixed.bytes_per_token()


def test_a_window_as_long_as_the_context_is_no_window():
    assert kv_shape(small("phi3", sliding_window=256)).layers_sliding == 0


def test_a_model_outside_the_catalog_is_planned_from_its_config():
    mini = small(
        "mistral", hidden_size=256, head_dim=32, num_attention_heads=8, num_key_value_heads=4, sliding_window=None
    )
    whole = layout(mini)
    assert whole.parameters == sum(whole.components.values())
    assert whole.kv.bytes_per_token() == 4 * 4 * 32 * 2 * 2
    assert lora_targets(mini) == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_lora_targets_by_architecture():
    assert lora_targets(VARIANTS["gpt_neox"]) == ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    assert set(lora_targets(MPT)) == {"Wqkv", "out_proj", "up_proj", "down_proj"}
    assert set(lora_targets(VARIANTS["phi3"])) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert "out_proj" not in lora_targets(NEMOTRON)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("gemma4")])
def test_lora_parameters_are_those_of_a_real_adapter(variant):
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    config = dict(VARIANTS[variant])
    keys = {k: v for k, v in config.items() if k != "model_type"}
    with torch.device("meta"):
        real = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[config["model_type"]](**keys))
        adapted = get_peft_model(real, LoraConfig(r=5, target_modules=list(lora_targets(config))))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert lora_parameters(config, 5, lora_targets(config)) == trained


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(CatalogError, match=r"'q_pro' is no Linear of a llama model .did you mean 'q_proj'"):
        lora_parameters(VARIANTS["llama"], 8, ("q_pro",))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_size": 4}, "no model_type"),
        ({"model_type": "mistrall"}, "architecture 'mistrall' is not known .did you mean 'mistral'"),
        ({"model_type": "rwkv"}, "architecture 'rwkv' is not known.*so its parameters and KV cache cannot be counted"),
        ({"model_type": "deepseek_v3"}, "needs hidden_size, num_hidden_layers, num_attention_heads, vocab_size"),
        (small("llama", hidden_size=10**12), "hidden_size: 1000000000000 is beyond any model"),
        (small("llama", num_hidden_layers=10_001), "num_hidden_layers: 10001 is beyond any model"),
        (small("llama", hidden_size=64.0), "hidden_size: 64.0 is not a size"),
        (small("llama", intermediate_size=0), "intermediate_size: 0 is not a size"),
        (small("llama", num_key_value_heads=3), "num_key_value_heads: 4 attention heads do not divide by 3"),
        (small("olmo3", layer_types=["full_attention"] * 3 + ["rotten"]), "layer 'rotten' is not known"),
        (["llama"], "no model_type"),
        ({k: v for k, v in small("llama").items() if k != "hidden_size"}, "needs hidden_size and this one lacks it"),
        (small("llama", num_hidden_layers=-1), "-1 is not a size"),
        (small("llama", vocab_size="32k"), "'32k' is not a size"),
        (small("llama", num_attention_heads=3), "does not divide"),
        (small("llama", attention_bias="no"), "is not true or false"),
        (small("olmo3", layer_types=["full_attention"]), "does not name 4 layers"),
        ({"model_type": "llava"}, "needs text_config"),
        (
            {"model_type": "llava", "text_config": {"model_type": "t5"}},
            "language model 't5' inside a llava is not known",
        ),
        (
            {"model_type": "llava", "text_config": {"vocab_size": 320}, "vision_config": {"model_type": "x"}},
            "vision encoder 'x'",
        ),
        ({**NEMOTRON, "hybrid_override_pattern": "MX"}, "layer 'X' is not known"),
        ({k: v for k, v in NEMOTRON.items() if k != "hybrid_override_pattern"}, "needs 'layers_block_type'"),
    ],
)
def test_what_is_missing_or_absurd_is_named_and_never_guessed(config, said):
    with pytest.raises(CatalogError, match=said):
        layout(config)


@pytest.mark.parametrize("model_id", MODELS)
def test_the_number_of_layers_is_that_of_the_real_config(model_id):
    from transformers import CONFIG_MAPPING

    keys = dict(MODELS[model_id].config)
    built = CONFIG_MAPPING[keys.pop("model_type")](**keys).get_text_config()
    assert layout(MODELS[model_id].config).layers == built.num_hidden_layers


def test_every_architecture_of_the_catalog_is_known():
    assert {model.config["model_type"] for model in MODELS.values()} <= set(known_architectures())
