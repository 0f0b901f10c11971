"""Models that join an encoder, a projector and a language model: LLaVA, BLIP-2, Mistral 3, Gemma 3 and 4, Qwen2-VL to 3.5, SmolVLM,
Muse Glimmer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from onecard.catalog.layouts import (
    classic,
    decoder,
    experts,
    gpt,
    hybrid,
    latent,
    mixture,
    relatives,
    state_space,
    vision,
)
from onecard.catalog.layouts.reading import Config, complete, flag, part, require, size
from onecard.catalog.layouts.tally import Tally
from onecard.catalog.shapes import Layout
from onecard.errors import CatalogError

TEXT: dict[str, Callable[[Config], Layout]] = {
    **decoder.LAYOUTS,
    **classic.LAYOUTS,
    **mixture.LAYOUTS,
    **hybrid.LAYOUTS,
    **experts.LAYOUTS,
    **gpt.LAYOUTS,
    **latent.LAYOUTS,
    **relatives.LAYOUTS,
    **state_space.LAYOUTS,
}

MAIN_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def _text(config: Config, model_type: str, *, tied: bool | None = None) -> Layout:
    """The language model inside; `tied` is the outer config's word on the head, where that is the one transformers asks."""
    inner = part(config, "text_config", model_type)
    if tied is not None:
        inner["tie_word_embeddings"] = tied
    name = str(inner["model_type"])
    if name not in TEXT:
        raise CatalogError(
            f"language model '{name}' inside a {config['model_type']} is not known",
            where="config.json: text_config.model_type",
            allowed=", ".join(sorted(TEXT)),
        )
    return TEXT[name](inner)


def _vision(config: Config, model_type: str) -> dict[str, Any]:
    """The encoder's config; older ones name the whole model's type there."""
    own = dict(_nested(config, "vision_config"))
    if own.get("model_type") == config["model_type"]:
        own["model_type"] = model_type
    return complete(own, model_type)


def _nested(config: Config, key: str) -> Config:
    """A nested config that transformers fills from its class when it is absent or null."""
    nested = config.get(key)
    if nested is None:
        return {}
    if not isinstance(nested, Mapping):
        raise CatalogError(f"{nested!r} is no config", where=f"config.json: {key}", allowed="an object, or nothing")
    return nested


def _joined(text: Layout, *tallies: Tally) -> Layout:
    linears = [shape for tally in tallies for shape in tally.linears]
    rest: Counter[str] = Counter(text.rest)
    for tally in tallies:
        rest.update(tally.rest)
    return Layout((*linears, *text.linears), dict(rest), text.kv, text.hidden_size, text.vocab_size, text.layers)


def _feature_width(config: Config, hidden: int) -> int:
    """Width the projector reads: one encoder layer's, or several side by side."""
    layers = config.get("vision_feature_layer")
    if isinstance(layers, list | tuple) and not layers:
        raise CatalogError("it names no layer", where="config.json: vision_feature_layer")
    return hidden * (len(layers) if isinstance(layers, list | tuple) else 1)


def llava(config: Config) -> Layout:
    """LLaVA 1.5 and LLaVA-NeXT, which adds one vector for the end of a row of tiles."""
    text = _text(config, "llama", tied=flag(config, "tie_word_embeddings"))
    image, bias = _vision(config, "clip_vision_model"), flag(config, "multimodal_projector_bias")
    encoder, projector = vision.tower(image), Tally("projector")
    width = _feature_width(config, size(image, "hidden_size"))
    projector.linear("linear_1", width, text.hidden_size, bias=bias)
    projector.linear("linear_2", text.hidden_size, text.hidden_size, bias=bias)
    if config["model_type"] == "llava_next":
        projector.other(text.hidden_size)
    return _joined(text, encoder, projector)


def blip2(config: Config) -> Layout:
    text, image = _text(config, "opt"), _vision(config, "blip_2_vision_model")
    queries = complete(_nested(config, "qformer_config"), "blip_2_qformer")
    queries["encoder_hidden_size"] = size(image, "hidden_size")  # transformers sets it so
    projector = Tally("projector")
    projector.linear("language_projection", size(queries, "hidden_size"), text.hidden_size, bias=True)
    return _joined(text, vision.tower(image), vision.qformer(queries, size(config, "num_query_tokens")), projector)


def mistral3(config: Config) -> Layout:
    text = _text(config, "ministral3", tied=flag(config, "tie_word_embeddings"))
    image, bias = _vision(config, "pixtral"), flag(config, "multimodal_projector_bias")
    encoder, hidden = vision.tower(image), size(image, "hidden_size")
    projector = Tally("projector")
    projector.linear("merging_layer", hidden * size(config, "spatial_merge_size") ** 2, hidden)
    projector.linear("linear_1", _feature_width(config, hidden), text.hidden_size, bias=bias)
    projector.linear("linear_2", text.hidden_size, text.hidden_size, bias=bias)
    projector.other(hidden)
    return _joined(text, encoder, projector)


def gemma3(config: Config) -> Layout:
    """The projector is a bare matrix with a norm, no Linear, so it stays in 16 bits."""
    text = _text(config, "gemma3_text", tied=flag(config, "tie_word_embeddings"))
    image = _vision(config, "siglip_vision_model")
    projector = Tally("projector")
    projector.other(size(image, "hidden_size") * (text.hidden_size + 1))
    return _joined(text, vision.tower(image), projector)


def gemma4(config: Config) -> Layout:
    """Vision and audio encoders are each there only when configured.

    With a tied head transformers leaves the last Linear of the file (the last projector) unquantized.
    """
    text = _text(config, "gemma4_text", tied=flag(config, "tie_word_embeddings"))
    sound = config.get("audio_config") is not None
    tallies = []
    if config.get("vision_config") is not None:
        image, projector = part(config, "vision_config", "gemma4_vision"), Tally("projector")
        last = flag(config, "tie_word_embeddings") and not sound
        projector.linear("embedding_projection", size(image, "hidden_size"), text.hidden_size, quantized=not last)
        tallies += [vision.tower(image), projector]
    if sound:
        audio = part(config, "audio_config", "gemma4_audio")
        tower = vision.gemma4_audio(audio)
        last = flag(config, "tie_word_embeddings")
        tower.linear("embedding_projection", size(audio, "output_proj_dims"), text.hidden_size, quantized=not last)
        tallies.append(tower)
    return _joined(text, *tallies)


def gemma4_unified(config: Config) -> Layout:
    """No encoders: patches and sound frames are projected straight into the language model."""
    text = _text(config, "gemma4_unified_text", tied=flag(config, "tie_word_embeddings"))
    tied, sound = flag(config, "tie_word_embeddings"), config.get("audio_config") is not None
    tallies = []
    if config.get("vision_config") is not None:
        image, projector = part(config, "vision_config", "gemma4_unified_vision"), Tally("projector")
        patch = 3 * (size(image, "patch_size") * size(image, "pooling_kernel_size")) ** 2
        width = size(image, "mm_embed_dim")
        projector.linear("patch_dense", patch, width, bias=True)
        projector.linear("embedding_projection", width, text.hidden_size, quantized=sound or not tied)
        projector.other(size(image, "mm_posemb_size") * 2 * width + 2 * patch + 4 * width)
        tallies.append(projector)
    if sound:
        audio = part(config, "audio_config", "gemma4_unified_audio")
        tower = Tally("audio_tower")
        tower.linear("embedding_projection", size(audio, "audio_embed_dim"), text.hidden_size, quantized=not tied)
        tallies.append(tower)
    return _joined(text, *tallies)


def qwen3_5(config: Config) -> Layout:
    name = str(config["model_type"])
    text = _text(config, f"{name}_text", tied=flag(config, "tie_word_embeddings"))
    return _joined(text, vision.tower(_vision(config, f"{name}_vision")))


def qwen_vl(config: Config) -> Layout:
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL. Published configs of the first two have no text_config: its keys stand at the top."""
    name = str(config["model_type"])
    may_be_flat = name in ("qwen2_vl", "qwen2_5_vl")
    nested, tied = config.get("text_config"), flag(config, "tie_word_embeddings")
    if nested is None and may_be_flat:
        require(config, (*MAIN_SIZES, "intermediate_size"))
        top = {key: value for key, value in config.items() if key not in ("vision_config", "model_type")}
        config = {**config, "text_config": top}
    elif may_be_flat and isinstance(nested, Mapping):
        tied = tied or flag(nested, "tie_word_embeddings")
    text = _text(config, f"{name}_text", tied=tied)
    return _joined(text, vision.tower(_vision(config, f"{name}_vision")))


def idefics3(config: Config) -> Layout:
    """Idefics3 and SmolVLM: neighbouring patches are laid side by side and projected, without a bias."""
    text = _text(config, "llama", tied=flag(config, "tie_word_embeddings"))
    image = _vision(config, f"{config['model_type']}_vision")
    projector = Tally("projector")
    wide = size(image, "hidden_size") * size(config, "scale_factor") ** 2
    projector.linear("proj", wide, text.hidden_size)
    return _joined(text, vision.tower(image), projector)


def muse_glimmer(config: Config) -> Layout:
    text = _text(config, "muse_glimmer_text")
    image, middle = _vision(config, "muse_glimmer_vision"), size(config, "projector_hidden_size")
    projector = Tally("projector")
    projector.linear("fc1", size(config, "out_hidden_size"), middle)
    projector.linear("fc2", middle, middle)
    projector.linear("vision_projection", middle, text.hidden_size)
    return _joined(text, vision.tower(image), projector)


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "llava": llava,
    "llava_next": llava,
    "blip-2": blip2,
    "mistral3": mistral3,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "gemma4_unified": gemma4_unified,
    "idefics3": idefics3,
    "smolvlm": idefics3,
    "qwen2_vl": qwen_vl,
    "qwen2_5_vl": qwen_vl,
    "qwen3_vl": qwen_vl,
    "qwen3_vl_moe": qwen_vl,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5,
    "muse_glimmer": muse_glimmer,
}
