"""From a Hugging Face style config to parameters, Linear shapes and KV cache, by arithmetic alone.

An architecture this file does not know is refused with its name; a size the config lacks is refused with its key: nothing is guessed.
The tests compare every function here with the real model built on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onecard.catalog.layouts import composite
from onecard.catalog.layouts.reading import complete, require
from onecard.catalog.shapes import KvShape, Layout, LinearShape
from onecard.errors import CatalogError, nearest

Config = Mapping[str, Any]

_LAYOUTS: dict[str, Callable[[Config], Layout]] = {**composite.TEXT, **composite.LAYOUTS}

# A model's main sizes must stand in its own config: a class default there would plan a model nobody has.
_MAIN_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_REQUIRED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(composite.TEXT, (*_MAIN_SIZES, "intermediate_size")),
    "falcon": _MAIN_SIZES,
    "mpt": ("d_model", "n_layers", "n_heads", "vocab_size"),
    "opt": (*_MAIN_SIZES, "ffn_dim"),
    "qwen3_5_moe_text": (*_MAIN_SIZES, "moe_intermediate_size"),
    "nemotron_h": ("hidden_size", "num_attention_heads", "vocab_size"),
    **dict.fromkeys(composite.LAYOUTS, ("text_config",)),
}


def known_architectures() -> tuple[str, ...]:
    """The `model_type`s that can be planned, sorted."""
    return tuple(sorted(_LAYOUTS))


def layout(config: Config) -> Layout:
    """Everything that follows from the config. CatalogError for an unknown `model_type` or a missing or absurd size."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CatalogError("the config has no model_type", where="config.json", next_step="give a transformers config")
    build = _LAYOUTS.get(model_type)
    if build is None:
        raise CatalogError(
            f"architecture '{model_type}' is not known{nearest(model_type, known_architectures())}, "
            "so its parameters and KV cache cannot be counted",
            where="config.json: model_type",
            allowed=", ".join(known_architectures()),
        )
    require(config, _REQUIRED[model_type])
    return build(complete(config))


def count_parameters(config: Config) -> dict[str, int]:
    """Parameters by component (see shapes.COMPONENTS); their sum is the model's size."""
    return layout(config).components


def kv_shape(config: Config) -> KvShape:
    """What a token leaves in the KV cache."""
    return layout(config).kv


def linear_shapes(config: Config, component: str | None = "linear") -> list[LinearShape]:
    """The Linear layers of the language model, or of another component, or all of them (None). The head is never among them."""
    return [shape for shape in layout(config).linears if component in (None, shape.component)]


# Linears of a layer that a LoRA leaves alone: routers and gates of a few outputs, embeddings' own projections, and in
# Nemotron-H the Mamba output, which PEFT refuses because fused kernels read its weight directly.
_NOT_TRAINED = {
    "in_proj_a", "in_proj_b", "shared_expert_gate", "proj", "project_in", "project_out",
    "per_layer_input_gate", "per_layer_projection", "per_layer_model_projection",
}  # fmt: skip
_CUSTOMARY_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_targets(config: Config) -> tuple[str, ...]:
    """The names of the language model's projections a LoRA is put on by default: all of them, attention first."""
    left_out = _NOT_TRAINED | ({"out_proj"} if config.get("model_type") == "nemotron_h" else set())
    names = dict.fromkeys(shape.module for shape in linear_shapes(config) if shape.module not in left_out)
    customary = [name for name in _CUSTOMARY_ORDER if name in names]
    return (*customary, *(name for name in names if name not in customary))


def lora_parameters(config: Config, rank: int, targets: tuple[str, ...]) -> int:
    """Parameters of a LoRA of this rank on the language model's Linears named in `targets`: rank x (in + out) each.

    CatalogError when a target is the name of no Linear of this model.
    """
    shapes = linear_shapes(config)
    names = sorted({shape.module for shape in shapes})
    for target in targets:
        if target not in names:
            raise CatalogError(
                f"'{target}' is no Linear of a {config['model_type']} model{nearest(target, names)}",
                where="target_modules",
                allowed=", ".join(names),
            )
    return sum(rank * (s.in_features + s.out_features) * s.count for s in shapes if s.module in targets)
