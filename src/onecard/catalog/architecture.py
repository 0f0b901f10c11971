"""From a Hugging Face style config to parameters, Linear shapes and KV cache, by arithmetic alone.

An architecture this file does not know is refused with its name; a size the config lacks is refused with its key: nothing is guessed.
The tests compare every function here with the real model built on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onecard.catalog.layouts import composite
from onecard.catalog.layouts.reading import complete, renamed, require
from onecard.catalog.shapes import KvShape, Layout, LinearShape
from onecard.errors import CatalogError, nearest

Config = Mapping[str, Any]

_LAYOUTS: dict[str, Callable[[Config], Layout]] = {**composite.TEXT, **composite.LAYOUTS}

# A model's main sizes must stand in its own config: a class default there would plan a model nobody has.
_MAIN_SIZES = composite.MAIN_SIZES
_WITHOUT_HEADS = ("hidden_size", "num_hidden_layers", "vocab_size")
_GPT2_SIZES = ("n_embd", "n_layer", "n_head", "vocab_size")
_REQUIRED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(composite.TEXT, (*_MAIN_SIZES, "intermediate_size")),
    **dict.fromkeys(("codegen", "gpt2", "gpt_bigcode", "gptj"), _GPT2_SIZES),
    **dict.fromkeys(("falcon_mamba", "mamba"), _WITHOUT_HEADS),
    **dict.fromkeys(
        ("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text", "qwen3_vl_moe_text"),
        (*_MAIN_SIZES, "moe_intermediate_size"),
    ),
    "bloom": ("hidden_size", "n_layer", "n_head", "vocab_size"),
    "falcon": _MAIN_SIZES,
    "gpt_neo": ("hidden_size", "num_layers", "num_heads", "vocab_size"),
    "mamba2": (*_WITHOUT_HEADS, "num_heads", "head_dim"),
    "mpt": ("d_model", "n_layers", "n_heads", "vocab_size"),
    "opt": (*_MAIN_SIZES, "ffn_dim"),
    "nemotron_h": ("hidden_size", "num_attention_heads", "vocab_size"),
    **dict.fromkeys(composite.LAYOUTS, ("text_config",)),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), ("vision_config",)),
}


def known_architectures() -> tuple[str, ...]:
    """The `model_type`s that can be planned, sorted."""
    return tuple(sorted(_LAYOUTS))


def layout(config: Config) -> Layout:
    """Everything that follows from the config. CatalogError for an unknown `model_type` or a missing or absurd size, nothing else."""
    model_type = config.get("model_type") if isinstance(config, Mapping) else None
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
    require(renamed(config, model_type), _REQUIRED[model_type])
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


# Linears of a layer that a LoRA leaves alone: routers and gates of a few outputs, and embeddings' own projections.
_NOT_TRAINED = {
    "router", "in_proj_a", "in_proj_b", "in_proj_ba", "shared_expert_gate", "proj", "project_in", "project_out",
    "per_layer_input_gate", "per_layer_projection", "per_layer_model_projection",
}  # fmt: skip
# State-space layers whose fused kernels read these weights directly: an adapter there would be passed over. PEFT refuses most of them.
_READ_DIRECTLY = {
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h"), frozenset({"out_proj"})),
    **dict.fromkeys(("falcon_mamba", "mamba"), frozenset({"x_proj", "dt_proj", "out_proj"})),
    "jamba": frozenset({"dt_proj"}),
}
# Mixtures whose experts PEFT 0.21 trains instead when it is asked for these names: the dense and shared MLPs would get nothing, and the
# adapter would be as many times larger as there are experts.
_MLP_NAMES = frozenset({"gate_proj", "up_proj", "down_proj"})
_MEANT_FOR_EXPERTS = dict.fromkeys(
    ("deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "glm4_moe", "glm4_moe_lite", "qwen3_moe", "qwen3_next"),
    _MLP_NAMES,
)
_CUSTOMARY_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_targets(config: Config) -> tuple[str, ...]:
    """The names of the language model's projections a LoRA is put on by default: all that take one, attention first."""
    model_type = str(config.get("model_type"))
    left_out = (
        _NOT_TRAINED | _READ_DIRECTLY.get(model_type, frozenset()) | _MEANT_FOR_EXPERTS.get(model_type, frozenset())
    )
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
