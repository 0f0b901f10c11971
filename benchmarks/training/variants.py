"""What is measured, most important first: name, who trains, and the settings that tell it from the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Trainer = Literal["trl", "liger", "unsloth", "ours"]
GOLDEN_LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
HEADS = ["embed_tokens", "lm_head"]


@dataclass(frozen=True)
class Variant:
    """`settings` are keyword arguments for TRL's config and PEFT's, keys of a recipe for ours, and their own for the others."""

    name: str
    trainer: Trainer
    about: str
    settings: dict[str, Any] = field(default_factory=dict)


def _trl(name: str, about: str, **settings: Any) -> Variant:
    return Variant(name, "trl", about, settings)


def _ours(rows: int, forward: int, checkpointing: bool | int, **lora: Any) -> Variant:
    """`checkpointing` as the recipe has it: all layers, none, or so many of the first."""
    words = {True: "checkpointing", False: "no checkpointing"}
    told = words[checkpointing] if isinstance(checkpointing, bool) else f"{checkpointing} layers checkpointed"
    short = {True: "ckpt", False: "none"}
    end = short[checkpointing] if isinstance(checkpointing, bool) else f"ckpt{checkpointing}"
    recipe: dict[str, Any] = {
        "batch": {"rows": 1, "accumulate": rows, "packing": True, "forward_tokens": forward},
        "gradient_checkpointing": checkpointing,
    }
    name = f"ours-{rows}-{forward}-{end}" + ("".join(f"-{key}{value}" for key, value in lora.items()))
    if lora:
        recipe["lora"] = lora
    return Variant(name, "ours", f"{rows} rows a step, forward passes of {forward:,} tokens, {told}", recipe)


GOLDEN = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "gradient_checkpointing": True}
PACKED = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "packing": True}
PACKED |= {"packing_strategy": "bfd", "max_length": 2048}

VARIANTS = (
    _ours(64, 4608, False),
    _ours(64, 9728, True),
    _trl("trl-packed-ckpt", "TRL, bfd packing 2,048 x 4, checkpointing", **PACKED, gradient_checkpointing=True),
    _trl("trl-packed-none", "TRL, bfd packing 2,048 x 4, no checkpointing", **PACKED, gradient_checkpointing=False),
    _trl("trl-golden", "document E in TRL: 1 x 16, checkpointing, embedding and head whole", **GOLDEN, heads=True),
    _ours(16, 4096, True),
    Variant(
        "liger-none", "liger", "a bare loop with Liger kernels, 2,048 x 4, no checkpointing", {"checkpointing": False}
    ),
    Variant("liger-ckpt", "liger", "a bare loop with Liger kernels, 2,048 x 4, checkpointing", {"checkpointing": True}),
    _ours(64, 9728, False),
    _ours(16, 4096, False),
    _trl("trl-rows", "document E in TRL without embedding and head", **GOLDEN, heads=False),
    _ours(64, 4608, False, dropout=0.0),
    _ours(64, 9728, 24),
    _ours(16, 2048, False),
    Variant("unsloth", "unsloth", "Unsloth with TRL, packed 2,048 x 4, its own checkpointing", {}),
)


def chosen(only: list[str] | None) -> list[Variant]:
    """All variants, or those that a word names, in full or in part. ValueError when a word names none."""
    names = [variant.name for variant in VARIANTS]
    if not only:
        return list(VARIANTS)
    wanted: set[str] = set()
    for word in only:
        named = {word} if word in names else {name for name in names if word in name}
        if not named:
            raise ValueError(f"no variant '{word}'; there are {', '.join(names)}")
        wanted |= named
    return [variant for variant in VARIANTS if variant.name in wanted]
