"""Decoders with state-space layers or short convolutions, alone or beside attention: Mamba 1 and 2, Jamba, Bamba, Falcon-H1,
Granite 4, LFM2. Such a layer holds a state of fixed size for a sequence instead of a cache.

transformers keeps a convolution's last inputs (kernel x channels) in 16 bits and the recurrent state in fp32; vLLM one input fewer,
and the state in 16 bits unless told otherwise (its mamba_ssm_cache_dtype "auto").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onecard.catalog.layouts.experts import add_experts
from onecard.catalog.layouts.reading import (
    Config,
    count,
    flag,
    head_width,
    kv_heads,
    layer_kinds,
    layer_numbers,
    size,
)
from onecard.catalog.layouts.tally import Tally
from onecard.catalog.shapes import KvShape, Layout
from onecard.errors import CatalogError

KINDS = ("full_attention", "linear_attention")
_OLD_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}


@dataclass(frozen=True)
class State:
    """What one recurrent layer holds for a sequence: `channels` of a convolution over `kernel` inputs, and so many state values."""

    channels: int
    kernel: int
    values: int = 0


def with_state(kv: KvShape, layers: int, state: State, *, vllm_value_bytes: int = 2) -> KvShape:
    """The cache of `kv` with the state of `layers` recurrent layers beside it, as transformers and as vLLM hold it."""
    held = layers * (state.channels * state.kernel * 2 + state.values * 4)
    in_vllm = layers * (state.channels * (state.kernel - 1) * 2 + state.values * vllm_value_bytes)
    return replace(kv, fixed_state_bytes=held, vllm=replace(kv, fixed_state_bytes=in_vllm) if layers else None)


def _mamba1(tally: Tally, config: Config, inner: int, layers: int, keys: tuple[str, str, str, str, str]) -> State:
    """Mamba mixers of `inner` channels. `keys`: where this architecture keeps state, kernel, rank, projections' and convolution's bias."""
    state_key, kernel_key, rank_key, bias_key, conv_bias_key = keys
    hidden, state, kernel = size(config, "hidden_size"), size(config, state_key), size(config, kernel_key)
    rank = -(-hidden // 16) if config.get(rank_key) in (None, "auto") else size(config, rank_key)
    bias = flag(config, bias_key)
    tally.linear("in_proj", hidden, 2 * inner, layers, bias=bias)
    tally.linear("x_proj", inner, rank + 2 * state, layers)
    tally.linear("dt_proj", rank, inner, layers, bias=True)
    tally.linear("out_proj", inner, hidden, layers, bias=bias)
    tally.other(layers * inner * (kernel + flag(config, conv_bias_key)), "conv")
    tally.other(layers * inner * (state + 1), "other")
    if config["model_type"] == "jamba":
        tally.other(layers * (rank + 2 * state), "norms")
    return State(inner, kernel, inner * state)


def mamba(config: Config) -> Layout:
    """Mamba and Falcon-Mamba: no attention at all. An intermediate_size in the config counts more than `expand`."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    inner = size(config, "intermediate_size", size(config, "expand") * hidden)
    tally = Tally()
    keys = ("state_size", "conv_kernel", "time_step_rank", "use_bias", "use_conv_bias")
    state = _mamba1(tally, config, inner, layers, keys)
    tally.other((layers + 1) * hidden, "norms")
    return tally.text_model(config, with_state(KvShape(0, 0, 0), layers, state))


def _mamba2(
    tally: Tally,
    config: Config,
    layers: int,
    *,
    heads: str = "mamba_n_heads",
    width: str = "mamba_d_head",
    expand: str = "mamba_expand",
    groups: str = "mamba_n_groups",
    state: str = "mamba_d_state",
    kernel: str = "mamba_d_conv",
    bias: str = "mamba_proj_bias",
    output_bias: str = "mamba_proj_bias",
    conv_bias: str = "mamba_conv_bias",
    norm: bool = True,
) -> State:
    """Mamba-2 mixers; the keywords name the keys of the config. CatalogError unless heads x width is the mixer's inner width."""
    hidden, number, states = size(config, "hidden_size"), size(config, heads), size(config, state)
    inner = size(config, expand) * hidden
    if config["model_type"] == "falcon_h1":
        inner = size(config, "mamba_d_ssm", inner)
    each = inner // number if config.get(width) in (None, "auto") else size(config, width)
    if number * each != inner:
        raise CatalogError(f"{number} heads do not share a width of {inner}", where=f"config.json: {heads}")
    channels, taps = inner + 2 * size(config, groups) * states, size(config, kernel)
    tally.linear("in_proj", hidden, inner + channels + number, layers, bias=flag(config, bias))
    tally.linear("out_proj", inner, hidden, layers, bias=flag(config, output_bias))
    tally.other(layers * channels * (taps + flag(config, conv_bias)), "conv")
    tally.other(layers * 3 * number, "other")
    tally.other(layers * inner if norm else 0, "norms")
    return State(channels, taps, inner * states)


def mamba2(config: Config) -> Layout:
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    tally = Tally()
    state = _mamba2(
        tally,
        config,
        layers,
        heads="num_heads",
        width="head_dim",
        expand="expand",
        groups="n_groups",
        state="state_size",
        kernel="conv_kernel",
        bias="use_bias",
        output_bias="use_bias",
        conv_bias="use_conv_bias",
    )
    tally.other((layers + 1) * hidden, "norms")
    return tally.text_model(config, with_state(KvShape(0, 0, 0), layers, state))


def jamba(config: Config) -> Layout:
    """One attention layer in attn_layer_period, Mamba in the others; a mixture in every expert_layer_period-th layer's MLP."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    attention = _every(config, layers, "attn_layer_period", "attn_layer_offset")
    experts = size(config, "num_experts")
    mixtures = _every(config, layers, "expert_layer_period", "expert_layer_offset") if experts > 1 else 0
    tally = Tally()
    tally.attention(config, attention)
    keys = ("mamba_d_state", "mamba_d_conv", "mamba_dt_rank", "mamba_proj_bias", "mamba_conv_bias")
    state = _mamba1(tally, config, size(config, "mamba_expand") * hidden, layers - attention, keys)
    inner = size(config, "intermediate_size")
    tally.gated_mlp(hidden, inner, layers - mixtures)
    tally.linear("router", hidden, experts, mixtures)
    tally.other(mixtures * experts * 3 * hidden * inner, "experts")
    tally.other((2 * layers + 1) * hidden, "norms")
    kv = KvShape(attention, kv_heads(config), head_width(config))
    return tally.text_model(config, with_state(kv, layers - attention, state))


def _every(config: Config, layers: int, period_key: str, offset_key: str) -> int:
    """How many layers a period and an offset choose. CatalogError when the offset is not inside the period."""
    period, offset = size(config, period_key), count(config, offset_key)
    if offset >= period:
        raise CatalogError(f"an offset of {offset} in a period of {period}", where=f"config.json: {offset_key}")
    return len(range(offset, layers, period))


def bamba(config: Config) -> Layout:
    """Mamba-2 layers, and attention in the layers of attn_layer_indices."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    attention = sum(0 <= number < layers for number in layer_numbers(config, "attn_layer_indices"))
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, attention, bias=bias, output_bias=bias)
    state = _mamba2(tally, config, layers - attention)
    tally.gated_mlp(hidden, size(config, "intermediate_size"), layers, bias=flag(config, "mlp_bias"))
    tally.other((2 * layers + 1) * hidden, "norms")
    kv = KvShape(attention, kv_heads(config), head_width(config))
    return tally.text_model(config, with_state(kv, layers - attention, state))


def falcon_h1(config: Config) -> Layout:
    """Attention and a Mamba-2 mixer side by side in every layer."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    bias = flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, layers, bias=bias, output_bias=bias)
    norm = flag(config, "mamba_rms_norm")
    state = _mamba2(tally, config, layers, output_bias="projectors_bias", norm=norm)
    tally.gated_mlp(hidden, size(config, "intermediate_size"), layers, bias=flag(config, "mlp_bias"))
    tally.other((2 * layers + 1) * hidden, "norms")
    return tally.text_model(config, with_state(KvShape(layers, kv_heads(config), head_width(config)), layers, state))


def granitemoehybrid(config: Config) -> Layout:
    """Granite 4: Mamba-2 or attention, then experts (where there are any) beside one fused MLP that every token meets."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    named = config.get("layer_types")
    if isinstance(named, list | tuple):
        named = [_OLD_KINDS.get(kind, kind) if isinstance(kind, str) else kind for kind in named]
    kinds = layer_kinds({**config, "layer_types": named}, ["linear_attention"] * layers, KINDS)
    attention, bias = kinds.count("full_attention"), flag(config, "attention_bias")
    tally = Tally()
    tally.attention(config, attention, bias=bias, output_bias=bias)
    state = _mamba2(tally, config, layers - attention)
    if count(config, "num_local_experts"):
        add_experts(tally, config, layers, "num_local_experts", "intermediate_size")
    shared = size(config, "shared_intermediate_size")
    tally.linear("input_linear", hidden, 2 * shared, layers)
    tally.linear("output_linear", shared, hidden, layers)
    tally.other((2 * layers + 1) * hidden, "norms")
    kv = KvShape(attention, kv_heads(config), head_width(config))
    return tally.text_model(config, with_state(kv, layers - attention, state))


def lfm2(config: Config) -> Layout:
    """Short gated convolutions, and attention with a norm on each head in the layers that layer_types or full_attn_idxs name.

    LFM2-MoE has experts in all layers but the first num_dense_layers.
    """
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    chosen = layer_numbers(config, "full_attn_idxs")
    default = ["full_attention" if number in chosen else "conv" for number in range(layers)]
    if config.get("full_attn_idxs") is None:
        default = ["full_attention"] * layers
    mixture = config["model_type"] == "lfm2_moe"
    if mixture and config.get("layer_types") is None:
        raise CatalogError(
            "a lfm2_moe config needs layer_types and this one lacks it", where="config.json: layer_types"
        )
    attention = layer_kinds(config, default, ("full_attention", "conv")).count("full_attention")
    convolutions, width = layers - attention, head_width(config)
    dense = min(count(config, "num_dense_layers"), layers) if mixture else layers
    inner = size(config, "intermediate_size") if mixture else _lfm2_inner(config)
    heads, groups, taps = size(config, "num_attention_heads"), kv_heads(config), size(config, "conv_L_cache")
    bias = flag(config, "conv_bias")
    tally = Tally()
    tally.linear("in_proj", hidden, 3 * hidden, convolutions, bias=bias)
    tally.linear("out_proj", hidden, hidden, convolutions, bias=bias)
    tally.linear("q_proj", hidden, heads * width, attention)
    tally.linear("k_proj", hidden, groups * width, attention)
    tally.linear("v_proj", hidden, groups * width, attention)
    tally.linear("out_proj", heads * width, hidden, attention)
    tally.linear("w1", hidden, inner, dense)
    tally.linear("w3", hidden, inner, dense)
    tally.linear("w2", inner, hidden, dense)
    if layers > dense:
        add_experts(tally, config, layers - dense, "num_experts", "moe_intermediate_size")
    tally.other(convolutions * hidden * (taps + bias), "conv")
    tally.other((2 * layers + 1) * hidden + 2 * attention * width, "norms")
    kv = KvShape(attention, groups, width)
    return tally.text_model(config, with_state(kv, convolutions, State(hidden, taps)))


def _lfm2_inner(config: Config) -> int:
    """Two thirds of intermediate_size, times a factor, rounded up to block_multiple_of; or as it stands."""
    inner = size(config, "intermediate_size")
    if not flag(config, "block_auto_adjust_ff_dim"):
        return inner
    inner, factor = int(2 * inner / 3), config.get("block_ffn_dim_multiplier")
    if factor is None:
        return max(inner, 1)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 100:
        where = "config.json: block_ffn_dim_multiplier"
        raise CatalogError(f"{factor!r} is not a factor", where=where, allowed="a number above 0, below 100")
    step = size(config, "block_multiple_of")
    return max(-(-int(factor * inner) // step), 1) * step


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "bamba": bamba,
    "falcon_h1": falcon_h1,
    "falcon_mamba": mamba,
    "granitemoehybrid": granitemoehybrid,
    "jamba": jamba,
    "lfm2": lfm2,
    "lfm2_moe": lfm2,
    "mamba": mamba,
    "mamba2": mamba2,
}
