"""Decoders that mix attention with recurrent layers, which hold a state of fixed size instead of a cache: Qwen3-Next, Qwen3.5 and
Nemotron-H.
"""

from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.layouts.experts import add_sparse
from onecard.catalog.layouts.reading import Config, flag, head_width, kv_heads, layer_kinds, size
from onecard.catalog.layouts.state_space import KINDS, State, with_state
from onecard.catalog.layouts.tally import Tally
from onecard.catalog.shapes import KvShape, Layout
from onecard.errors import CatalogError

_NEMOTRON_LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
_NEMOTRON_OLD_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}


def qwen3_5(config: Config) -> Layout:
    """Qwen3.5 and Qwen3-Next: three gated DeltaNet layers, then a full one whose queries carry a gate (twice as wide); dense or a mixture.

    The state per sequence is fp32 (value heads x key width x value width) and a convolution's last inputs in 16 bits. vLLM keeps it in
    fp32 for Qwen3.5 too, whose published configs ask for that (mamba_ssm_dtype), and in 16 bits for Qwen3-Next.
    """
    hidden, layers, width = size(config, "hidden_size"), size(config, "num_hidden_layers"), size(config, "head_dim")
    period = size(config, "full_attention_interval", 4)
    kinds = layer_kinds(
        config, ["full_attention" if (n + 1) % period == 0 else "linear_attention" for n in range(layers)], KINDS
    )
    full, linear = kinds.count("full_attention"), kinds.count("linear_attention")
    bias, heads = flag(config, "attention_bias"), size(config, "num_attention_heads")
    tally = Tally()
    tally.linear("q_proj", hidden, 2 * heads * width, full, bias=bias)
    tally.linear("k_proj", hidden, kv_heads(config) * width, full, bias=bias)
    tally.linear("v_proj", hidden, kv_heads(config) * width, full, bias=bias)
    tally.linear("o_proj", heads * width, hidden, full, bias=bias)
    fused = config["model_type"] == "qwen3_next"
    state = _delta_net(tally, config, hidden, linear, fused=fused)
    tally.other((2 * layers + 1) * hidden + 2 * full * width, "norms")
    if fused:
        add_sparse(tally, config, shared=True)
    elif config["model_type"] == "qwen3_5_moe_text":
        experts, inner = size(config, "num_experts"), size(config, "moe_intermediate_size")
        tally.other(layers * experts * 3 * hidden * inner, "experts")
        tally.other(layers * experts * hidden, "router")
        tally.gated_mlp(hidden, size(config, "shared_expert_intermediate_size"), layers)
        tally.linear("shared_expert_gate", hidden, 1, layers)
    else:
        tally.gated_mlp(hidden, size(config, "intermediate_size"), layers)
    narrow = fused or config.get("mamba_ssm_dtype") in ("bfloat16", "float16")
    kv = with_state(KvShape(full, kv_heads(config), width), linear, state, vllm_value_bytes=2 if narrow else 4)
    return tally.text_model(config, kv)


def _delta_net(tally: Tally, config: Config, hidden: int, layers: int, *, fused: bool) -> State:
    """Gated DeltaNet layers; `fused` joins their input projections. Returns the state each keeps."""
    key_width, value_width = size(config, "linear_key_head_dim"), size(config, "linear_value_head_dim")
    value_heads = size(config, "linear_num_value_heads")
    keys, values = size(config, "linear_num_key_heads") * key_width, value_heads * value_width
    channels, kernel = 2 * keys + values, size(config, "linear_conv_kernel_dim")
    if fused:
        tally.linear("in_proj_qkvz", hidden, channels + values, layers)
        tally.linear("in_proj_ba", hidden, 2 * value_heads, layers)
    else:
        tally.linear("in_proj_qkv", hidden, channels, layers)
        tally.linear("in_proj_z", hidden, values, layers)
        tally.linear("in_proj_b", hidden, value_heads, layers)
        tally.linear("in_proj_a", hidden, value_heads, layers)
    tally.linear("out_proj", values, hidden, layers)
    tally.other(layers * channels * kernel, "conv")
    tally.other(layers * 2 * value_heads, "other")
    tally.other(layers * value_width, "norms")
    return State(channels, kernel, value_heads * key_width * value_width)


def nemotron_h(config: Config) -> Layout:
    """One mixer per layer: Mamba-2, attention, a plain MLP or a mixture of experts with a shared one."""
    kinds = _nemotron_layers(config)
    hidden, layers, width = size(config, "hidden_size"), len(kinds), head_width(config)
    attention, mlps, mixtures = kinds.count("full_attention"), kinds.count("mlp"), kinds.count("moe")
    mambas = kinds.count("linear_attention")
    tally = Tally()
    bias = flag(config, "attention_bias")
    tally.attention(config, attention, bias=bias, output_bias=bias)
    state = _mamba(tally, config, hidden, mambas)
    bias = flag(config, "mlp_bias")
    plain = size(config, "intermediate_size") if mlps else 0
    tally.linear("up_proj", hidden, plain, mlps, bias=bias)
    tally.linear("down_proj", plain, hidden, mlps, bias=bias)
    if mixtures:
        experts, inner = size(config, "n_routed_experts"), size(config, "moe_intermediate_size")
        latent = size(config, "moe_latent_size", hidden)
        if latent != hidden:
            raise CatalogError("nemotron_h with moe_latent_size is not known", where="config.json: moe_latent_size")
        tally.other(mixtures * experts * 2 * hidden * inner, "experts")
        tally.other(mixtures * experts * hidden, "router")
        shared = size(config, "moe_shared_expert_intermediate_size")
        tally.linear("up_proj", hidden, shared, mixtures, bias=bias)
        tally.linear("down_proj", shared, hidden, mixtures, bias=bias)
    tally.other((layers + 1) * hidden, "norms")
    kv = KvShape(attention, kv_heads(config), width)
    narrow = config.get("mamba_ssm_cache_dtype") in ("bfloat16", "float16")
    return tally.text_model(config, with_state(kv, mambas, state, vllm_value_bytes=2 if narrow else 4), layers=layers)


def _nemotron_layers(config: Config) -> list[str]:
    pattern = config.get("hybrid_override_pattern")
    kinds = config.get("layers_block_type") or config.get("layer_types")
    if kinds is None and isinstance(pattern, str):
        kinds = [_NEMOTRON_LETTERS.get(letter, letter) for letter in pattern]
    if not isinstance(kinds, list | tuple) or not kinds:
        raise CatalogError(
            "a nemotron_h config needs 'layers_block_type' and this one lacks it",
            where="config.json: layers_block_type",
        )
    named = [_NEMOTRON_OLD_NAMES.get(str(kind), str(kind)) for kind in kinds]
    unknown = sorted(set(named) - set(_NEMOTRON_LETTERS.values()))
    if unknown:
        raise CatalogError(
            f"layer '{unknown[0]}' is not known",
            where="config.json: layers_block_type",
            allowed=", ".join(_NEMOTRON_LETTERS.values()),
        )
    return named


def _mamba(tally: Tally, config: Config, hidden: int, layers: int) -> State:
    """Mamba-2 layers; returns the state each keeps."""
    heads, width, state = (size(config, key) for key in ("mamba_num_heads", "mamba_head_dim", "ssm_state_size"))
    inner, kernel = heads * width, size(config, "conv_kernel")
    channels = inner + 2 * size(config, "n_groups") * state
    bias = flag(config, "use_bias")
    tally.linear("in_proj", hidden, inner + channels + heads, layers, bias=bias)
    tally.linear("out_proj", inner, hidden, layers, bias=bias)
    tally.other(layers * channels * (kernel + flag(config, "use_conv_bias")), "conv")
    tally.other(layers * 3 * heads, "other")
    tally.other(layers * inner, "norms")
    return State(channels, kernel, heads * width * state)


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "qwen3_next": qwen3_5,
    "qwen3_5_text": qwen3_5,
    "qwen3_5_moe_text": qwen3_5,
    "nemotron_h": nemotron_h,
}
