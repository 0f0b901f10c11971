"""Models that join an encoder, a projector and a language model: LLaVA, BLIP-2, Mistral 3, Gemma 3 and 4, Qwen3.5, Muse Glimmer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from onecard.catalog.layouts import classic, decoder, hybrid, mixture, vision
from onecard.catalog.layouts.reading import Config, complete, flag, part, size
from onecard.catalog.layouts.tally import Tally
from onecard.catalog.shapes import Layout
from onecard.errors import CatalogError

TEXT: dict[str, Callable[[Config], Layout]] = {
    **decoder.LAYOUTS,
    **classic.LAYOUTS,
    **mixture.LAYOUTS,
    **hybrid.LAYOUTS,
}


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
    nested = config.get("vision_config")
    return complete(nested if isinstance(nested, Mapping) else {}, model_type)


def _joined(text: Layout, *tallies: Tally) -> Layout:
    linears = [shape for tally in tallies for shape in tally.linears]
    rest: Counter[str] = Counter(text.rest)
    for tally in tallies:
        rest.update(tally.rest)
    return Layout((*linears, *text.linears), dict(rest), text.kv, text.hidden_size, text.vocab_size)


def _feature_width(config: Config, hidden: int) -> int:
    """Width the projector reads: one encoder layer's, or several side by side."""
    layers = config.get("vision_feature_layer")
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
    nested = config.get("qformer_config")
    queries = complete(nested if isinstance(nested, Mapping) else {}, "blip_2_qformer")
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
    sound = isinstance(config.get("audio_config"), Mapping)
    tallies = []
    if isinstance(config.get("vision_config"), Mapping):
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
    tied, sound = flag(config, "tie_word_embeddings"), isinstance(config.get("audio_config"), Mapping)
    tallies = []
    if isinstance(config.get("vision_config"), Mapping):
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
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5,
    "muse_glimmer": muse_glimmer,
}
