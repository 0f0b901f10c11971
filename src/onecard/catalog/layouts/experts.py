"""Decoders whose MLPs are mixtures of experts: Mixtral, Qwen's, OLMoE, Granite, Phi-3.5, ERNIE, dots, GLM-4.5.

Experts are 3-D parameters in transformers, not Linear layers, so bitsandbytes leaves them in 16 bits; experts that every token meets
("shared") are Linears.
"""

from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.layouts.reading import (
    Config,
    count,
    every,
    flag,
    head_width,
    kv_heads,
    layer_kinds,
    layer_numbers,
    size,
)
from onecard.catalog.layouts.tally import Tally, kv_of
from onecard.catalog.shapes import Layout
from onecard.errors import CatalogError


def add_experts(tally: Tally, config: Config, layers: int, number: str, inner: str) -> None:
    """Gated experts of `layers` layers and the router that chooses among them; `number` and `inner` are keys of the config."""
    hidden, experts = size(config, "hidden_size"), size(config, number)
    tally.other(layers * experts * 3 * hidden * size(config, inner), "experts")
    tally.other(layers * experts * hidden, "router")


def add_routed(tally: Tally, config: Config, *, mlp_bias: bool = False) -> None:
    """The MLPs of the DeepSeek kind: the first few layers dense, the others with routed experts and some that are always met."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    dense = _dense_layers(config, layers)
    if dense:
        tally.gated_mlp(hidden, size(config, "intermediate_size"), dense, bias=mlp_bias)
    if mixtures := layers - dense:
        add_experts(tally, config, mixtures, "n_routed_experts", "moe_intermediate_size")
        shared = size(config, "moe_intermediate_size") * size(config, "n_shared_experts")
        tally.gated_mlp(hidden, shared, mixtures, bias=mlp_bias)


def _dense_layers(config: Config, layers: int) -> int:
    """How many layers have no experts: by mlp_layer_types in GLM-4.7-Flash, by first_k_dense_replace in the others."""
    if config["model_type"] != "glm4_moe_lite":
        return min(count(config, "first_k_dense_replace"), layers)
    kinds = layer_kinds(config, ["dense", *["sparse"] * (layers - 1)], ("dense", "sparse"), "mlp_layer_types")
    return kinds.count("dense")


def add_sparse(tally: Tally, config: Config, *, shared: bool) -> None:
    """The MLPs of Qwen's mixtures: every decoder_sparse_step-th layer but those of mlp_only_layers is one."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    step, plain = size(config, "decoder_sparse_step", 1), layer_numbers(config, "mlp_only_layers")
    mixtures = sum((number + 1) % step == 0 and number not in plain for number in range(layers))
    if layers > mixtures:
        tally.gated_mlp(hidden, size(config, "intermediate_size"), layers - mixtures)
    if mixtures:
        add_experts(tally, config, mixtures, "num_experts", "moe_intermediate_size")
        if shared:
            tally.gated_mlp(hidden, size(config, "shared_expert_intermediate_size"), mixtures)
            tally.linear("shared_expert_gate", hidden, 1, mixtures)


def mixtral(config: Config) -> Layout:
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    tally = Tally()
    tally.attention(config, layers)
    add_experts(tally, config, layers, "num_local_experts", "intermediate_size")
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv_of(config))


def qwen2_moe(config: Config) -> Layout:
    """Biases on q, k and v; beside the experts one that every token meets, behind a gate of its own."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    tally = Tally()
    tally.attention(config, layers, bias=flag(config, "qkv_bias"))
    add_sparse(tally, config, shared=True)
    tally.other((2 * layers + 1) * hidden, "norms")
    kinds = ["full_attention"] * layers
    if flag(config, "use_sliding_window"):
        last = size(config, "max_window_layers", layers)
        kinds = [kind if number < last else "full_attention" for number, kind in enumerate(every(layers, 2))]
    return tally.text_model(config, kv_of(config, layer_kinds(config, kinds)))


def qwen3_moe(config: Config) -> Layout:
    """A norm on each query and key head, no shared expert; with use_sliding_window every layer slides."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    add_sparse(tally, config, shared=False)
    tally.other((2 * layers + 1) * hidden + 2 * layers * head_width(config), "norms")
    slides = flag(config, "use_sliding_window") and config.get("sliding_window") is not None
    return tally.text_model(config, kv_of(config, ["sliding_attention" if slides else "full_attention"] * layers))


def olmoe(config: Config) -> Layout:
    """Norms over the whole width of queries and keys."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    bias, width = flag(config, "attention_bias"), head_width(config)
    if width * size(config, "num_attention_heads") != hidden:
        raise CatalogError("an olmoe whose heads are not as wide as the model", where="config.json: head_dim")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    add_experts(tally, config, layers, "num_experts", "intermediate_size")
    tally.other((2 * layers + 1) * hidden + layers * (hidden + kv_heads(config) * width), "norms")
    return tally.text_model(config, kv_of(config))


def granitemoe(config: Config) -> Layout:
    """With shared_intermediate_size also one fused MLP a layer that every token meets."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    add_experts(tally, config, layers, "num_local_experts", "intermediate_size")
    if config["model_type"] == "granitemoeshared" and (shared := count(config, "shared_intermediate_size")):
        tally.linear("input_linear", hidden, 2 * shared, layers)
        tally.linear("output_linear", shared, hidden, layers)
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv_of(config, ["full_attention"] * layers))


def phimoe(config: Config) -> Layout:
    """Phi-3.5-MoE: layer norms with a bias; its router is a kind of Linear, which the loader passes over."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    bias, experts = flag(config, "attention_bias"), size(config, "num_local_experts")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.linear("router", hidden, experts, layers, quantized=False)
    tally.other(layers * experts * 3 * hidden * size(config, "intermediate_size"), "experts")
    tally.other(2 * (2 * layers + 1) * hidden, "norms")
    if flag(config, "lm_head_bias"):
        tally.other(size(config, "vocab_size"), "lm_head")
    return tally.text_model(config, kv_of(config))


def ernie4_5_moe(config: Config) -> Layout:
    """Mixtures from moe_layer_start_index to moe_layer_end_index (-1: the last), every moe_layer_interval-th; biases on request, in
    the head too.
    """
    hidden, layers, bias = size(config, "hidden_size"), size(config, "num_hidden_layers"), flag(config, "use_bias")
    first, step = count(config, "moe_layer_start_index"), size(config, "moe_layer_interval", 1)
    last = layers - 1 if config.get("moe_layer_end_index") in (None, -1) else count(config, "moe_layer_end_index")
    mixtures = sum((number + 1) % step == 0 and first <= number <= last for number in range(layers))
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    if layers > mixtures:
        tally.gated_mlp(hidden, size(config, "intermediate_size"), layers - mixtures, bias=bias)
    if mixtures:
        add_experts(tally, config, mixtures, "moe_num_experts", "moe_intermediate_size")
        tally.other(mixtures * size(config, "moe_num_experts"), "other")  # a trained correction for each expert's score
        if shared := count(config, "moe_num_shared_experts"):
            tally.gated_mlp(hidden, shared * size(config, "moe_intermediate_size"), mixtures, bias=bias)
    tally.other((2 * layers + 1) * hidden, "norms")
    if bias:
        tally.other(size(config, "vocab_size"), "lm_head")
    return tally.text_model(config, kv_of(config, ["full_attention"] * layers))


def dots1(config: Config) -> Layout:
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    add_routed(tally, config)
    tally.other((2 * layers + 1) * hidden + 2 * layers * head_width(config), "norms")
    first = count(config, "max_window_layers") if config.get("sliding_window") is not None else layers
    kinds = ["sliding_attention" if number >= first else "full_attention" for number in range(layers)]
    return tally.text_model(config, kv_of(config, layer_kinds(config, kinds)))


def glm4_moe(config: Config) -> Layout:
    """GLM-4.5 and 4.6: biases on q, k and v on request, a norm on each head on request."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    tally = Tally()
    tally.attention(config, layers, bias=flag(config, "attention_bias"))
    add_routed(tally, config)
    heads = 2 * head_width(config) if flag(config, "use_qk_norm") else 0
    tally.other((2 * layers + 1) * hidden + layers * heads, "norms")
    return tally.text_model(config, kv_of(config, ["full_attention"] * layers))


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "dots1": dots1,
    "ernie4_5_moe": ernie4_5_moe,
    "glm4_moe": glm4_moe,
    "granitemoe": granitemoe,
    "granitemoeshared": granitemoe,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "phimoe": phimoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_vl_moe_text": qwen3_moe,
}
