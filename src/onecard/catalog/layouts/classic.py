"""Decoders with a plain MLP of two matrices and layer norms: GPT-NeoX, Falcon, MPT, OPT, StarCoder2."""

from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.layouts.reading import Config, flag, head_width, kv_heads, size
from onecard.catalog.layouts.tally import Tally, kv_of
from onecard.catalog.shapes import KvShape, Layout


def starcoder2(config: Config) -> Layout:
    hidden, inner, layers = (
        size(config, "hidden_size"),
        size(config, "intermediate_size"),
        size(config, "num_hidden_layers"),
    )
    bias = flag(config, "use_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.linear("c_fc", hidden, inner, layers, bias=bias)
    tally.linear("c_proj", inner, hidden, layers, bias=bias)
    tally.other(2 * (2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv_of(config))


def gpt_neox(config: Config) -> Layout:
    """Pythia's architecture: fused query_key_value, biases everywhere but in the head."""
    hidden, inner, layers = (
        size(config, "hidden_size"),
        size(config, "intermediate_size"),
        size(config, "num_hidden_layers"),
    )
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.linear("query_key_value", hidden, 3 * hidden, layers, bias=bias)
    tally.linear("dense", hidden, hidden, layers, bias=bias)
    tally.linear("dense_h_to_4h", hidden, inner, layers, bias=True)
    tally.linear("dense_4h_to_h", inner, hidden, layers, bias=True)
    tally.other(2 * (2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, KvShape(layers, size(config, "num_attention_heads"), head_width(config)))


def falcon(config: Config) -> Layout:
    """One key and value head for all queries (7B), one per head, or groups (new_decoder_architecture).

    transformers 5.19 builds these as `FalconLinear`, which its bitsandbytes loader passes over: int8 and nf4 leave Falcon in 16 bits.
    With groups transformers caches keys and values repeated for every head, so the cache counts all heads; vLLM caches the groups.
    """
    hidden, layers, heads = (size(config, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    inner, width, bias = size(config, "ffn_hidden_size", 4 * hidden), head_width(config), flag(config, "bias")
    grouped = flag(config, "new_decoder_architecture")
    groups = kv_heads(config, "num_kv_heads") if grouped else (1 if flag(config, "multi_query") else heads)
    tally = Tally()
    tally.linear("query_key_value", hidden, (heads + 2 * groups) * width, layers, bias=bias, quantized=False)
    tally.linear("dense", hidden, hidden, layers, bias=bias, quantized=False)
    tally.linear("dense_h_to_4h", hidden, inner, layers, bias=bias, quantized=False)
    tally.linear("dense_4h_to_h", inner, hidden, layers, bias=bias, quantized=False)
    norms = size(config, "num_ln_in_parallel_attn", 2) if grouped else 2 - flag(config, "parallel_attn")
    tally.other(2 * (norms * layers + 1) * hidden, "norms")
    in_vllm = KvShape(layers, groups, width)
    return tally.text_model(config, KvShape(layers, heads, width, vllm=in_vllm) if grouped else in_vllm)


def mpt(config: Config) -> Layout:
    """ALiBi positions, so no table; fused Wqkv. transformers builds it without biases, four times as wide inside, whatever is asked."""
    hidden, layers, heads = size(config, "d_model"), size(config, "n_layers"), size(config, "n_heads")
    inner = 4 * hidden
    tally = Tally()
    tally.linear("Wqkv", hidden, 3 * hidden, layers)
    tally.linear("out_proj", hidden, hidden, layers)
    tally.linear("up_proj", hidden, inner, layers)
    tally.linear("down_proj", inner, hidden, layers)
    tally.other((2 * layers + 1) * hidden, "norms")
    sized = {**config, "hidden_size": hidden, "num_attention_heads": heads}
    return tally.text_model(sized, KvShape(layers, heads, head_width(sized)))


def opt(config: Config) -> Layout:
    """Learned positions (two more than the context), biases on request, embeddings that may be narrower than the model."""
    hidden, inner, layers = size(config, "hidden_size"), size(config, "ffn_dim"), size(config, "num_hidden_layers")
    bias = flag(config, "enable_bias")
    narrow = size(config, "word_embed_proj_dim", hidden)
    tally = Tally()
    for module in ("q_proj", "k_proj", "v_proj", "out_proj"):
        tally.linear(module, hidden, hidden, layers, bias=bias)
    tally.linear("fc1", hidden, inner, layers, bias=bias)
    tally.linear("fc2", inner, hidden, layers, bias=bias)
    if narrow != hidden:
        tally.linear("project_in", narrow, hidden)
        tally.linear("project_out", hidden, narrow)
    final = flag(config, "do_layer_norm_before") and not flag(config, "_remove_final_layer_norm")
    if flag(config, "layer_norm_elementwise_affine"):
        tally.other(2 * (2 * layers + final) * hidden, "norms")
    tally.other((size(config, "max_position_embeddings") + 2) * hidden, "other_embeddings")
    kv = KvShape(layers, size(config, "num_attention_heads"), head_width(config))
    return tally.text_model(config, kv, embedding_width=narrow)


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "starcoder2": starcoder2,
    "gpt_neox": gpt_neox,
    "falcon": falcon,
    "mpt": mpt,
    "opt": opt,
}
