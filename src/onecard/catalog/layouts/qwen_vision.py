"""Qwen's image encoders: patches over two frames, and a merger that joins neighbouring patches at the language model's width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onecard.catalog.layouts.reading import Config, size
from onecard.catalog.layouts.tally import Tally
from onecard.errors import CatalogError


def _patch(config: Config) -> int:
    return size(config, "in_channels") * size(config, "temporal_patch_size") * size(config, "patch_size") ** 2


def _blocks(tally: Tally, config: Config, hidden: int, layers: int) -> None:
    tally.linear("qkv", hidden, 3 * hidden, layers, bias=True)
    tally.linear("proj", hidden, hidden, layers, bias=True)


def qwen2(config: Config) -> Tally:
    """Rotary positions; `hidden_size` is the width it is merged to, `embed_dim` its own."""
    hidden, layers = size(config, "embed_dim"), size(config, "depth")
    merged = hidden * size(config, "spatial_merge_size") ** 2
    inner = hidden * size(config, "mlp_ratio")
    tally = Tally("vision_tower")
    _blocks(tally, config, hidden, layers)
    tally.linear("fc1", hidden, inner, layers, bias=True)
    tally.linear("fc2", inner, hidden, layers, bias=True)
    tally.linear("0", merged, merged, bias=True)
    tally.linear("2", merged, size(config, "hidden_size"), bias=True)
    tally.other(_patch(config) * hidden + (4 * layers + 2) * hidden)
    return tally


def qwen2_5(config: Config) -> Tally:
    """RMS norms and a gated MLP with biases; most layers look at a window of the image."""
    hidden, layers = size(config, "hidden_size"), size(config, "depth")
    merged = hidden * size(config, "spatial_merge_size") ** 2
    tally = Tally("vision_tower")
    _blocks(tally, config, hidden, layers)
    tally.gated_mlp(hidden, size(config, "intermediate_size"), layers, bias=True)
    tally.linear("0", merged, merged, bias=True)
    tally.linear("2", merged, size(config, "out_hidden_size"), bias=True)
    tally.other(_patch(config) * hidden + (2 * layers + 1) * hidden)
    return tally


def qwen3_5(config: Config) -> Tally:
    """Learned positions. Qwen3-VL also merges what a few layers see on the way (deepstack_visual_indexes), each by a merger of its own."""
    hidden, inner, layers = size(config, "hidden_size"), size(config, "intermediate_size"), size(config, "depth")
    merged, out = hidden * size(config, "spatial_merge_size") ** 2, size(config, "out_hidden_size")
    further = _deep_mergers(config)
    tally = Tally("vision_tower")
    _blocks(tally, config, hidden, layers)
    tally.linear("linear_fc1", hidden, inner, layers, bias=True)
    tally.linear("linear_fc2", inner, hidden, layers, bias=True)
    tally.linear("linear_fc1", merged, merged, 1 + further, bias=True)
    tally.linear("linear_fc2", merged, out, 1 + further, bias=True)
    positions = size(config, "num_position_embeddings")
    tally.other((_patch(config) + 1) * hidden + positions * hidden + (4 * layers + 2) * hidden + 2 * further * merged)
    return tally


def _deep_mergers(config: Config) -> int:
    """How many layers have a merger of their own: one for each of deepstack_visual_indexes, which Qwen3.5 does not know."""
    chosen = config.get("deepstack_visual_indexes") if str(config["model_type"]).startswith("qwen3_vl") else ()
    if not isinstance(chosen, Sequence) or isinstance(chosen, str):
        where = "config.json: vision_config.deepstack_visual_indexes"
        raise CatalogError(f"{chosen!r} is no list of layers", where=where)
    return len(chosen)


TOWERS: dict[str, Callable[[Config], Tally]] = {
    "qwen2_vl_vision": qwen2,
    "qwen2_5_vl_vision": qwen2_5,
    "qwen3_vl_vision": qwen3_5,
    "qwen3_vl_moe_vision": qwen3_5,
    "qwen3_5_vision": qwen3_5,
    "qwen3_5_moe_vision": qwen3_5,
}
