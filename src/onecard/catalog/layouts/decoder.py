"""Decoders of the Llama kind: grouped-query attention, a gated MLP, RMS norms; each differs in biases, norms and windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onecard.catalog.layouts.reading import Config, count, every, flag, head_width, kv_heads, layer_kinds, size
from onecard.catalog.layouts.tally import Tally, kv_of
from onecard.catalog.shapes import Layout


def _sizes(config: Config) -> tuple[int, int, int]:
    return size(config, "hidden_size"), size(config, "intermediate_size"), size(config, "num_hidden_layers")


def _optional_window(config: Config) -> list[str]:
    """Layers of Qwen and SmolLM3: sliding only with use_sliding_window, and from max_window_layers on."""
    layers = size(config, "num_hidden_layers")
    if not flag(config, "use_sliding_window") or config.get("sliding_window") is None:
        return ["full_attention"] * layers
    first = count(config, "max_window_layers")
    return ["sliding_attention" if number >= first else "full_attention" for number in range(layers)]


def mistral(config: Config) -> Layout:
    """Mistral and Ministral 3: no biases; with a sliding_window every layer slides."""
    hidden, inner, layers = _sizes(config)
    tally = Tally()
    tally.attention(config, layers)
    tally.gated_mlp(hidden, inner, layers)
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv_of(config))


def ministral(config: Config) -> Layout:
    """Mistral whose layer_types may mix sliding layers with full ones; without them a sliding_window is every layer's."""
    whole, layers = mistral(config), size(config, "num_hidden_layers")
    kind = "full_attention" if config.get("sliding_window") is None else "sliding_attention"
    return replace(whole, kv=kv_of(config, layer_kinds(config, [kind] * layers)))


def llama(config: Config) -> Layout:
    hidden, inner, layers = _sizes(config)
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.gated_mlp(hidden, inner, layers, bias=flag(config, "mlp_bias"))
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv_of(config, ["full_attention"] * layers))


def smollm3(config: Config) -> Layout:
    """Llama with an optional window; its layers without positions cost the same."""
    whole = llama(config)
    kinds = layer_kinds(config, _optional_window({**config, "max_window_layers": 0}))
    return replace(whole, kv=kv_of(config, kinds))


def qwen2(config: Config) -> Layout:
    """Biases on q, k and v only."""
    hidden, inner, layers = _sizes(config)
    tally = Tally()
    tally.attention(config, layers, bias=True)
    tally.gated_mlp(hidden, inner, layers)
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv_of(config, layer_kinds(config, _optional_window(config))))


def qwen3(config: Config) -> Layout:
    """No biases unless attention_bias; a norm on each query and key head."""
    hidden, inner, layers = _sizes(config)
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.gated_mlp(hidden, inner, layers)
    tally.other((2 * layers + 1) * hidden + 2 * layers * head_width(config), "norms")
    return tally.text_model(config, kv_of(config, layer_kinds(config, _optional_window(config))))


def phi3(config: Config) -> Layout:
    """Fused qkv_proj and gate_up_proj."""
    hidden, inner, layers = _sizes(config)
    width, heads = head_width(config), size(config, "num_attention_heads")
    tally = Tally()
    tally.linear("qkv_proj", hidden, (heads + 2 * kv_heads(config)) * width, layers)
    tally.linear("o_proj", heads * width, hidden, layers)
    tally.linear("gate_up_proj", hidden, 2 * inner, layers)
    tally.linear("down_proj", inner, hidden, layers)
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv_of(config))


def olmo3(config: Config) -> Layout:
    """Norms after the blocks, and over the whole width of queries and keys; three sliding layers, then a full one."""
    hidden, inner, layers = _sizes(config)
    bias, width = flag(config, "attention_bias"), head_width(config)
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.gated_mlp(hidden, inner, layers)
    across = (size(config, "num_attention_heads") + kv_heads(config)) * width
    tally.other((2 * layers + 1) * hidden + layers * across, "norms")
    return tally.text_model(config, kv_of(config, layer_kinds(config, every(layers, 4))))


def gemma3(config: Config) -> Layout:
    """Norms before and after each block and on each head; five sliding layers, then a full one."""
    hidden, inner, layers = _sizes(config)
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.gated_mlp(hidden, inner, layers)
    tally.other((4 * layers + 1) * hidden + 2 * layers * head_width(config), "norms")
    period = size(config, "sliding_window_pattern", 6)
    return tally.text_model(config, kv_of(config, layer_kinds(config, every(layers, period))))


def muse_glimmer(config: Config) -> Layout:
    """A gate on the attention output (also called gate_proj); the last of every four layers is full."""
    hidden, inner, layers = _sizes(config)
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.linear("gate_proj", hidden, size(config, "num_attention_heads") * head_width(config), layers, bias=bias)
    tally.gated_mlp(hidden, inner, layers)
    tally.other((4 * layers + 1) * hidden, "norms")
    kinds = ["sliding_attention" if (layers - 1 - number) % 4 else "full_attention" for number in range(layers)]
    return tally.text_model(config, kv_of(config, layer_kinds(config, kinds)))


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "mistral": mistral,
    "ministral": ministral,
    "ministral3": mistral,
    "llama": llama,
    "smollm3": smollm3,
    "qwen2": qwen2,
    "qwen2_vl_text": qwen2,
    "qwen2_5_vl_text": qwen2,
    "qwen3": qwen3,
    "qwen3_vl_text": qwen3,
    "phi3": phi3,
    "olmo3": olmo3,
    "gemma3_text": gemma3,
    "muse_glimmer_text": muse_glimmer,
}
