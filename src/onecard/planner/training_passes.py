"""How the rows of a step are laid into forward passes, as training/batches.py does it: pure arithmetic on lengths.

Packed rows fill passes up to the recipe's tokens; architectures that cannot keep packed rows apart get them padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from onecard.fleet.recipe import Recipe
from onecard.planner.shapes import ModelShape

PAD_TO = 16  # training/batches.py
PADDING = 1.10  # rows of similar length share a padded pass; the rest is padding
# transformers 5.19: architectures without exchangeable attention, and those with layers that mix tokens in other ways.
PADDED = frozenset(
    {
        "bamba", "bloom", "codegen", "falcon", "falcon_h1", "falcon_mamba", "gpt_neo", "gptj", "granitemoehybrid", "jamba", "lfm2",
        "lfm2_moe", "mamba", "mamba2", "mpt", "nemotron_h", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
        "stablelm",
    }
)  # fmt: skip


@dataclass(frozen=True)
class StepPasses:
    """`tokens` are those of the heaviest pass, padding included; `several`: a step may need more than one, so that gradients of the
    first are there during the next."""

    packed: bool
    tokens: int
    several: bool


def packs(recipe: Recipe, shape: ModelShape) -> bool:
    """Whether the rows of this run are laid end to end."""
    return recipe.batch.packing and shape.architecture not in PADDED


def passes_of(recipe: Recipe, shape: ModelShape, longest: int) -> StepPasses:
    """The passes of a step whose longest row has `longest` tokens."""
    batch = recipe.batch
    if packs(recipe, shape):
        whole = batch.step_rows * longest
        tokens = max(min(whole, batch.forward_tokens), longest)
        return StepPasses(True, _rounded(tokens), whole > batch.forward_tokens)
    return StepPasses(False, batch.rows * _rounded(longest), batch.accumulate > 1)


def passes_per_epoch(recipe: Recipe, shape: ModelShape, rows: int, tokens: int) -> tuple[float, float]:
    """(forward passes over all rows, tokens in all of them with padding), on average."""
    batch = recipe.batch
    steps = ceil(rows / batch.step_rows)
    if packs(recipe, shape):
        each = ceil(tokens / steps / batch.forward_tokens) if steps else 1
        return steps * each, tokens + PAD_TO / 2 * steps * each
    passes = ceil(rows / batch.rows)
    return passes, tokens * (PADDING if batch.rows > 1 else 1)


def _rounded(tokens: int) -> int:
    return -(-tokens // PAD_TO) * PAD_TO
