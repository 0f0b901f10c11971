"""Encoders of images and sound that sit beside a language model. Each fills a tally of its own component."""

from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.layouts import qwen_vision
from onecard.catalog.layouts.reading import Config, flag, size
from onecard.catalog.layouts.tally import Tally
from onecard.errors import CatalogError, nearest


def _sizes(config: Config) -> tuple[int, int, int]:
    return size(config, "hidden_size"), size(config, "intermediate_size"), size(config, "num_hidden_layers")


def _patches(config: Config) -> int:
    return (size(config, "image_size") // size(config, "patch_size")) ** 2


def _patch_weights(config: Config, hidden: int) -> int:
    return hidden * size(config, "num_channels", 3) * size(config, "patch_size") ** 2


def _encoder(tally: Tally, hidden: int, inner: int, layers: int, names: tuple[str, ...]) -> None:
    """Plain transformer blocks with biases and two layer norms, as CLIP and SigLIP have them."""
    for module in names:
        tally.linear(module, hidden, hidden, layers, bias=True)
    tally.linear("fc1", hidden, inner, layers, bias=True)
    tally.linear("fc2", inner, hidden, layers, bias=True)
    tally.other(layers * 4 * hidden)


def clip(config: Config) -> Tally:
    """A class token, a position per patch and one for it, norms before and after; every layer is loaded."""
    hidden, inner, layers = _sizes(config)
    tally = Tally("vision_tower")
    _encoder(tally, hidden, inner, layers, ("q_proj", "k_proj", "v_proj", "out_proj"))
    tally.other(hidden + _patch_weights(config, hidden) + (_patches(config) + 1) * hidden + 4 * hidden)
    return tally


def siglip(config: Config) -> Tally:
    """No class token. The pooling head is unknown here: language models leave it out (vision_use_head: false)."""
    if config.get("vision_use_head") is not False:
        raise CatalogError(
            "a siglip_vision_model with its pooling head is not known",
            where="config.json: vision_config.vision_use_head",
            allowed="false",
        )
    hidden, inner, layers = _sizes(config)
    tally = Tally("vision_tower")
    _encoder(tally, hidden, inner, layers, ("q_proj", "k_proj", "v_proj", "out_proj"))
    tally.other(_patch_weights(config, hidden) + hidden + _patches(config) * hidden + 2 * hidden)
    return tally


def pixtral(config: Config) -> Tally:
    """Rotary positions, a gated MLP, no biases."""
    hidden, inner, layers = _sizes(config)
    tally = Tally("vision_tower")
    for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
        tally.linear(module, hidden, hidden, layers)
    tally.gated_mlp(hidden, inner, layers)
    tally.other(_patch_weights(config, hidden) + (2 * layers + 1) * hidden)
    return tally


def blip2(config: Config) -> Tally:
    """EVA ViT: fused qkv, a class token, positions as a parameter."""
    hidden, inner, layers = _sizes(config)
    tally = Tally("vision_tower")
    tally.linear("qkv", hidden, 3 * hidden, layers, bias=flag(config, "qkv_bias"))
    _encoder(tally, hidden, inner, layers, ("projection",))
    tally.other(hidden + _patch_weights(config, hidden) + hidden + (_patches(config) + 1) * hidden + 2 * hidden)
    return tally


def qformer(config: Config, queries: int) -> Tally:
    """BLIP-2's Q-Former with its query tokens. transformers never quantizes it (`_keep_in_fp32_modules`).

    It is held in 16 bits when the model is loaded in bfloat16, and in fp32 when it is loaded in float16.
    """
    if flag(config, "use_qformer_text_input"):
        raise CatalogError(
            "a Q-Former with text input is not known", where="config.json: qformer_config.use_qformer_text_input"
        )
    hidden, inner, layers = _sizes(config)
    crossing = -(-layers // size(config, "cross_attention_frequency"))
    image = size(config, "encoder_hidden_size")
    tally = Tally("qformer")
    for module in ("query", "key", "value", "dense"):
        tally.linear(module, hidden, hidden, layers, bias=True, quantized=False)
    tally.linear("query", hidden, hidden, crossing, bias=True, quantized=False)
    tally.linear("key", image, hidden, crossing, bias=True, quantized=False)
    tally.linear("value", image, hidden, crossing, bias=True, quantized=False)
    tally.linear("dense", hidden, hidden, crossing, bias=True, quantized=False)
    tally.linear("dense", hidden, inner, layers, bias=True, quantized=False)
    tally.linear("dense", inner, hidden, layers, bias=True, quantized=False)
    tally.other(queries * hidden + 2 * hidden * (2 * layers + crossing + 1))
    return tally


def idefics3(config: Config) -> Tally:
    """SigLIP without its pooling head: patches with a bias, learned positions, a last norm. SmolVLM's is the same."""
    hidden, inner, layers = _sizes(config)
    tally = Tally("vision_tower")
    _encoder(tally, hidden, inner, layers, ("q_proj", "k_proj", "v_proj", "out_proj"))
    tally.other(_patch_weights(config, hidden) + hidden + _patches(config) * hidden + 2 * hidden)
    return tally


def gemma4(config: Config) -> Tally:
    """Linears inside clipping wrappers, so each is called `linear`; two position tables."""
    hidden, inner, layers = _sizes(config)
    width, bias = size(config, "head_dim"), flag(config, "attention_bias")
    queries, keys = size(config, "num_attention_heads") * width, size(config, "num_key_value_heads") * width
    tally = Tally("vision_tower")
    tally.linear("input_proj", 3 * size(config, "patch_size") ** 2, hidden)
    tally.linear("linear", hidden, queries, layers, bias=bias)
    tally.linear("linear", hidden, keys, 2 * layers, bias=bias)
    tally.linear("linear", queries, hidden, layers, bias=bias)
    tally.linear("linear", hidden, inner, 2 * layers)
    tally.linear("linear", inner, hidden, layers)
    tally.other(2 * size(config, "position_embedding_size") * hidden + layers * (4 * hidden + 2 * width))
    return tally


def gemma4_audio(config: Config) -> Tally:
    """A conformer over mel frames: two convolutions, then blocks of two MLPs, attention and a depthwise convolution."""
    hidden, layers = size(config, "hidden_size"), size(config, "num_hidden_layers")
    first, second = _channels(config)
    tally = Tally("audio_tower")
    tally.linear("input_proj_linear", first // 4 * second, hidden)
    tally.linear("linear", hidden, 4 * hidden, 2 * layers)
    tally.linear("linear", 4 * hidden, hidden, 2 * layers)
    tally.linear("linear", hidden, hidden, 5 * layers)
    tally.linear("relative_k_proj", hidden, hidden, layers)
    tally.linear("linear", hidden, 2 * hidden, layers)
    tally.linear("output_proj", hidden, size(config, "output_proj_dims"), bias=True)
    tally.other(9 * first + first + 9 * first * second + second)
    per_layer = hidden // size(config, "num_attention_heads") + hidden * size(config, "conv_kernel_size") + 9 * hidden
    tally.other(layers * per_layer)
    return tally


def _channels(config: Config) -> tuple[int, int]:
    """Channels of the two convolutions; what follows is as wide as a quarter of the first times the second."""
    where = "config.json: audio_config.subsampling_conv_channels"
    named = config.get("subsampling_conv_channels")
    if named is None:
        return 128, 32
    if not isinstance(named, list | tuple) or len(named) != 2:
        raise CatalogError(f"{named!r} does not name the channels of two convolutions", where=where)
    first, second = (size({"subsampling_conv_channels": one}, "subsampling_conv_channels") for one in named)
    if first < 4:
        raise CatalogError(f"{first} channels are too few", where=where, allowed="4 or more, then 1 or more")
    return first, second


def muse_glimmer(config: Config) -> Tally:
    """A ViT-G over patches of two frames, one position per place of a fixed grid."""
    hidden, inner, layers = _sizes(config)
    tally = Tally("vision_tower")
    patch = 3 * size(config, "patch_temporal") * size(config, "patch_size") ** 2
    tally.linear("patch_embedding", patch, hidden)
    _encoder(tally, hidden, inner, layers, ("q_proj", "k_proj", "v_proj", "proj"))
    tally.other(size(config, "pos_emb_height") * size(config, "pos_emb_width") * hidden + 4 * hidden)
    return tally


TOWERS: dict[str, Callable[[Config], Tally]] = {
    "clip_vision_model": clip,
    "siglip_vision_model": siglip,
    "pixtral": pixtral,
    "blip_2_vision_model": blip2,
    "idefics3_vision": idefics3,
    "smolvlm_vision": idefics3,
    **qwen_vision.TOWERS,
    "gemma4_vision": gemma4,
    "muse_glimmer_vision": muse_glimmer,
}


def tower(config: Config) -> Tally:
    """The encoder a vision_config names. CatalogError for one that is not known."""
    name = str(config.get("model_type"))
    if name not in TOWERS:
        raise CatalogError(
            f"vision encoder '{name}' is not known{nearest(name, list(TOWERS))}",
            where="config.json: vision_config.model_type",
            allowed=", ".join(TOWERS),
        )
    return TOWERS[name](config)
