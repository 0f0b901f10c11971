"""Decoders of the Llama kind from other makers: Gemma, Granite, OLMo, Command R, GLM, StableLM, EXAONE, ERNIE, Hunyuan, Seed and more.

Each is one call that says how it differs from Llama: biases, norms, a fused or an ungated MLP, windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onecard.catalog.layouts.decoder import llama
from onecard.catalog.layouts.reading import Config, every, flag, head_width, kv_heads, layer_kinds, size
from onecard.catalog.layouts.tally import Tally, kv_of
from onecard.catalog.shapes import Layout


def _decoder(
    config: Config,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    mlp: str = "gated",
    norms: int = 2,
    norm_parts: int = 1,
    head_norms: int = 0,
    extra: int = 0,
    kinds: list[str] | None = None,
) -> Layout:
    """`norms` a layer and one after the last, each of `norm_parts` vectors (2 with a bias); `head_norms` and `extra` are parameters a
    layer. `mlp` is gated, fused (gate and up in one) or plain (no gate). Without `kinds` every layer keeps all tokens.
    """
    hidden, inner = size(config, "hidden_size"), size(config, "intermediate_size")
    layers = size(config, "num_hidden_layers")
    tally = Tally()
    tally.attention(config, layers, bias=qkv_bias, output_bias=output_bias)
    if mlp == "gated":
        tally.gated_mlp(hidden, inner, layers, bias=mlp_bias)
    else:
        fused = mlp == "fused"
        tally.linear("gate_up_proj" if fused else "up_proj", hidden, inner * (1 + fused), layers, bias=mlp_bias)
        tally.linear("down_proj", inner, hidden, layers, bias=mlp_bias)
    tally.other(norm_parts * (norms * layers + 1) * hidden + head_norms * layers if norms else 0, "norms")
    tally.other(extra * layers, "other")
    return tally.text_model(config, kv_of(config, kinds or ["full_attention"] * layers))


def _each_head(config: Config) -> int:
    """A norm on each query and one on each key head share their weights over the heads."""
    return 2 * head_width(config)


def _all_heads(config: Config) -> int:
    """Norms over the whole width of queries and keys."""
    return (size(config, "num_attention_heads") + kv_heads(config)) * head_width(config)


def gemma(config: Config) -> Layout:
    bias = flag(config, "attention_bias")
    return _decoder(config, qkv_bias=bias, output_bias=bias)


def gemma2(config: Config) -> Layout:
    """Norms before and after each block; every other layer slides, the first among them."""
    bias, layers = flag(config, "attention_bias"), size(config, "num_hidden_layers")
    kinds = layer_kinds(config, every(layers, 2))
    return _decoder(config, qkv_bias=bias, output_bias=bias, norms=4, kinds=kinds)


def olmo(config: Config) -> Layout:
    """Its layer norms have no weights. So with a tied head the last MLP ends the list of parameters, and the loader spares its end."""
    bias = flag(config, "attention_bias")
    whole = _decoder(config, qkv_bias=bias, output_bias=bias, norms=0)
    if not flag(config, "tie_word_embeddings"):
        return whole
    *others, down = whole.linears
    spared = [replace(down, count=down.count - 1)] if down.count > 1 else []
    return replace(whole, linears=(*others, *spared, replace(down, count=1, quantized=False)))


def olmo2(config: Config) -> Layout:
    bias = flag(config, "attention_bias")
    return _decoder(config, qkv_bias=bias, output_bias=bias, head_norms=_all_heads(config))


def cohere(config: Config) -> Layout:
    """Command R: attention and MLP side by side behind one norm; the larger one has a norm on each head with weights of its own."""
    bias = flag(config, "attention_bias")
    heads = _all_heads(config) if flag(config, "use_qk_norm") else 0
    return _decoder(config, qkv_bias=bias, output_bias=bias, norms=1, head_norms=heads)


def cohere2(config: Config) -> Layout:
    """Three sliding layers, then a full one."""
    bias, layers = flag(config, "attention_bias"), size(config, "num_hidden_layers")
    kinds = layer_kinds(config, every(layers, size(config, "sliding_window_pattern", 4)))
    return _decoder(config, qkv_bias=bias, output_bias=bias, norms=1, kinds=kinds)


def glm(config: Config) -> Layout:
    return _decoder(config, qkv_bias=flag(config, "attention_bias"), mlp="fused")


def glm4(config: Config) -> Layout:
    return _decoder(config, qkv_bias=flag(config, "attention_bias"), mlp="fused", norms=4)


def stablelm(config: Config) -> Layout:
    """Layer norms with a bias; with use_parallel_residual one a layer; the norm of a head has weights of its own and no bias."""
    heads = _all_heads(config) if flag(config, "qk_layernorm") else 0
    norms = 1 if flag(config, "use_parallel_residual") else 2
    return _decoder(config, qkv_bias=flag(config, "use_qkv_bias"), norms=norms, norm_parts=2, head_norms=heads)


def exaone4(config: Config) -> Layout:
    """Norms after the blocks and on each head. Three sliding layers, then a full one, where there is a window."""
    layers = size(config, "num_hidden_layers")
    period = size(config, "sliding_window_pattern", 4) if config.get("sliding_window") is not None else 1
    return _decoder(config, head_norms=_each_head(config), kinds=layer_kinds(config, every(layers, period)))


def ernie4_5(config: Config) -> Layout:
    bias = flag(config, "use_bias")
    return _decoder(config, qkv_bias=bias, output_bias=bias, mlp_bias=bias)


def hunyuan(config: Config) -> Layout:
    bias = flag(config, "attention_bias")
    return _decoder(config, qkv_bias=bias, output_bias=bias, head_norms=_each_head(config))


def seed_oss(config: Config) -> Layout:
    output_bias, mlp_bias = flag(config, "attention_out_bias"), flag(config, "mlp_bias")
    return _decoder(config, qkv_bias=flag(config, "attention_bias"), output_bias=output_bias, mlp_bias=mlp_bias)


def arcee(config: Config) -> Layout:
    bias = flag(config, "attention_bias")
    return _decoder(config, qkv_bias=bias, output_bias=bias, mlp="plain", mlp_bias=flag(config, "mlp_bias"))


def nemotron(config: Config) -> Layout:
    bias, mlp_bias = flag(config, "attention_bias"), flag(config, "mlp_bias")
    return _decoder(config, qkv_bias=bias, output_bias=bias, mlp="plain", mlp_bias=mlp_bias, norm_parts=2)


def apertus(config: Config) -> Layout:
    """No gate; its activation (xielu) has two numbers a layer that are trained."""
    bias = flag(config, "attention_bias")
    extra = 2 if config.get("hidden_act") == "xielu" else 0
    heads = _each_head(config)
    return _decoder(config, qkv_bias=bias, output_bias=bias, mlp="plain", head_norms=heads, extra=extra)


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "apertus": apertus,
    "arcee": arcee,
    "cohere": cohere,
    "cohere2": cohere2,
    "ernie4_5": ernie4_5,
    "exaone4": exaone4,
    "gemma": gemma,
    "gemma2": gemma2,
    "glm": glm,
    "glm4": glm4,
    "granite": llama,
    "hunyuan_v1_dense": hunyuan,
    "nemotron": nemotron,
    "olmo": olmo,
    "olmo2": olmo2,
    "seed_oss": seed_oss,
    "stablelm": stablelm,
}
