"""Decoders with multi-head latent attention: DeepSeek-V2 and V3 (R1), GLM-4.7-Flash, MiniCPM3. Keys and values are expanded from
one narrow latent.

transformers (5.16 and later) and vLLM cache that latent with the rotary part beside it, once a layer whatever the number of heads;
vLLM's MiniCPM3 alone caches expanded keys, and values padded to their width.
"""

from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.layouts.experts import add_routed
from onecard.catalog.layouts.reading import Config, flag, kv_heads, shared_width, size
from onecard.catalog.layouts.tally import Tally
from onecard.catalog.shapes import KvShape, Layout


def _attention(tally: Tally, config: Config, layers: int) -> KvShape:
    """Its Linears and norms; q_lora_rank null means that queries are not compressed. Returns the cache."""
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    kv_heads(config)  # a number that does not divide is refused, though latent attention has no groups
    plain, rotary, latent = (size(config, key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank"))
    values = (
        size(config, "v_head_dim")
        if config.get("v_head_dim") is not None
        else shared_width(hidden, heads, "num_attention_heads")
    )
    bias, keys = flag(config, "attention_bias"), plain + rotary
    if config.get("q_lora_rank") is None:
        tally.linear("q_proj", hidden, heads * keys, layers)
    else:
        rank = size(config, "q_lora_rank")
        tally.linear("q_a_proj", hidden, rank, layers, bias=bias)
        tally.linear("q_b_proj", rank, heads * keys, layers)
        tally.other(layers * rank, "norms")
    tally.linear("kv_a_proj_with_mqa", hidden, latent + rotary, layers, bias=bias)
    tally.linear("kv_b_proj", latent, heads * (plain + values), layers)
    tally.linear("o_proj", heads * values, hidden, layers, bias=bias)
    tally.other(layers * latent, "norms")
    padded = KvShape(layers, heads, keys) if config["model_type"] == "minicpm3" else None
    return KvShape(layers, heads, keys, value_dim=values, latent_width=latent + rotary, vllm=padded)


def deepseek(config: Config) -> Layout:
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    tally = Tally()
    kv = _attention(tally, config, layers)
    add_routed(tally, config, mlp_bias=config["model_type"] == "deepseek_v2" and flag(config, "mlp_bias"))
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv)


def minicpm3(config: Config) -> Layout:
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    tally = Tally()
    kv = _attention(tally, config, layers)
    tally.gated_mlp(hidden, size(config, "intermediate_size"), layers, bias=flag(config, "mlp_bias"))
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, kv)


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "glm4_moe_lite": deepseek,
    "minicpm3": minicpm3,
}
