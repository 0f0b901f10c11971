"""A variant of ours as a recipe: document E's, with the variant's keys in place of its own."""

from __future__ import annotations

from typing import Any

from onecard.fleet.recipe import Recipe

GOLDEN: dict[str, Any] = {
    "name": "train-speed",
    "compute_dtype": "bf16",
    "lora": {"rank": 16, "alpha": 32, "dropout": 0.05, "targets": "all-linear"},
    "optimizer": {"name": "adamw_8bit", "learning_rate": 2e-4, "schedule": "cosine", "warmup_ratio": 0.03},
    "epochs": 3,
}


def recipe_of(settings: dict[str, Any]) -> Recipe:
    """Document E's recipe with a variant's keys in place of its own; within a section, key by key."""
    merged = dict(GOLDEN)
    for key, value in settings.items():
        merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
    return Recipe.model_validate(merged)
