"""Mixtures of experts: gpt-oss, and Gemma 4 (whose dense sizes share the code).

Experts are 3-D parameters in transformers, not Linear layers, so no quantizer of bitsandbytes touches them.
"""

from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.layouts.reading import (
    PER_LAYER,
    Config,
    count,
    every,
    flag,
    kv_heads,
    layer_kinds,
    layer_sizes,
    size,
)
from onecard.catalog.layouts.tally import Tally, kv_of
from onecard.catalog.shapes import KvShape, Layout
from onecard.errors import CatalogError


def gpt_oss(config: Config) -> Layout:
    """Every layer is a mixture with biases; a sink per head; every other layer slides."""
    hidden, inner, layers = (
        size(config, "hidden_size"),
        size(config, "intermediate_size"),
        size(config, "num_hidden_layers"),
    )
    experts, bias = size(config, "num_local_experts"), flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    tally.other(layers * experts * (3 * hidden * inner + 2 * inner + hidden), "experts")
    tally.other(layers * experts * (hidden + 1), "router")
    tally.other(layers * size(config, "num_attention_heads"), "other")
    tally.other((2 * layers + 1) * hidden, "norms")
    kinds = ["full_attention" if number % 2 else "sliding_attention" for number in range(layers)]
    return tally.text_model(config, kv_of(config, layer_kinds(config, kinds)))


def gemma4(config: Config) -> Layout:
    """Full layers have their own head width and may share keys with values; later layers may reuse earlier caches.

    E-sizes add a small embedding per layer and token; the A4B size has experts beside a dense MLP.
    """
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    kinds = layer_kinds(config, every(layers, 6))
    kinds[-1] = "full_attention"  # transformers forces the last layer
    shared_from = layers - count(config, "num_kv_shared_layers")
    if shared_from < 0:
        raise CatalogError(
            f"more layers share a cache than there are ({layers})", where="config.json: num_kv_shared_layers"
        )
    tally = Tally()
    caches = [
        _gemma4_attention(tally, config, kinds, shared_from, kind) for kind in ("full_attention", "sliding_attention")
    ]
    inner = size(config, "intermediate_size")
    wide = layers - shared_from if flag(config, "use_double_wide_mlp") else 0
    tally.gated_mlp(hidden, inner, layers - wide)
    tally.gated_mlp(hidden, 2 * inner, wide)
    tally.other((4 * layers + 1) * hidden, "norms")
    _gemma4_per_layer_inputs(tally, config, layers, hidden)
    if flag(config, "enable_moe_block"):
        _gemma4_experts(tally, config, layers, hidden)
    (full, heads, width), (sliding, sliding_heads, sliding_width) = caches
    window = size(config, "sliding_window")
    return tally.text_model(config, KvShape(full, heads, width, sliding, window, sliding_heads, sliding_width))


def _gemma4_attention(
    tally: Tally, config: Config, kinds: list[str], shared_from: int, kind: str
) -> tuple[int, int, int]:
    """Attention of the layers of one kind; returns how many keep a cache, with how many heads of what width."""
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    groups, width = _gemma4_heads(config, kinds, kind)
    bias = flag(config, "attention_bias")
    one_for_both = kind == "full_attention" and flag(config, "attention_k_eq_v")
    count = kinds.count(kind)
    keys = sum(found == kind for found in kinds[:shared_from])
    tally.linear("q_proj", hidden, heads * width, count, bias=bias)
    tally.linear("k_proj", hidden, groups * width, keys, bias=bias)
    tally.linear("v_proj", hidden, groups * width, 0 if one_for_both else keys, bias=bias)
    tally.linear("o_proj", heads * width, hidden, count, bias=bias)
    tally.other((count + keys) * width, "norms")
    return keys, groups, width


def _gemma4_heads(config: Config, kinds: list[str], kind: str) -> tuple[int, int]:
    """Heads of keys and values, and the width of a head, in the layers of one kind.

    Published configs give those of full layers as keys of their own. transformers saves them layer by layer instead, and a config that
    has `per_layer_config` is read by it alone: a layer it does not name has the sizes of the whole.
    """
    groups, width, where = kv_heads(config), size(config, "head_dim"), "num_key_value_heads"
    if PER_LAYER in config:
        where, own = PER_LAYER, layer_sizes(config, ("head_dim", "num_key_value_heads"))
        of_kind = [own.get(number, {}) for number, found in enumerate(kinds) if found == kind]
        found = {(layer.get("num_key_value_heads", groups), layer.get("head_dim", width)) for layer in of_kind}
        if len(found) > 1:  # transformers refuses it too: a kind of layer has one rotary embedding
            raise CatalogError(f"layers of {kind} differ from each other", where=f"config.json: {where}")
        groups, width = next(iter(found), (groups, width))
    elif kind == "full_attention":
        where, width = "num_global_key_value_heads", size(config, "global_head_dim", 512)
        if flag(config, "attention_k_eq_v"):
            groups = size(config, where, groups)
    if (heads := size(config, "num_attention_heads")) % groups:
        raise CatalogError(
            f"{heads} attention heads do not divide by {groups} heads of keys and values", where=f"config.json: {where}"
        )
    return groups, width


def _gemma4_per_layer_inputs(tally: Tally, config: Config, layers: int, hidden: int) -> None:
    width = count(config, "hidden_size_per_layer_input")
    if not width:
        return
    tally.linear("per_layer_input_gate", hidden, width, layers)
    tally.linear("per_layer_projection", width, hidden, layers)
    tally.linear("per_layer_model_projection", hidden, layers * width)
    tally.other(size(config, "vocab_size_per_layer_input") * layers * width, "other_embeddings")
    tally.other(layers * hidden + width, "norms")


def _gemma4_experts(tally: Tally, config: Config, layers: int, hidden: int) -> None:
    experts, inner = size(config, "num_experts"), size(config, "moe_intermediate_size")
    tally.other(layers * experts * 3 * hidden * inner, "experts")
    tally.other(layers * (hidden + experts), "router")
    tally.linear("proj", hidden, experts, layers)  # the router's, a Linear like any other to a quantizer
    tally.other(3 * layers * hidden, "norms")


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "gpt_oss": gpt_oss,
    "gemma4_text": gemma4,
    "gemma4_unified_text": gemma4,
}
