"""The memory of training one adapter over its phases, and the ledger of the worst of them.

It follows onecard's own run: fp32 adapter weights, TRL's loss in tiles, trained rows of added tokens, checkpointed layers. What a token
keeps stands in activations.py; whole models of 7B to 14B agreed within 1% (docs/measurements). On a CPU the resident set is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from onecard.fleet.recipe import Recipe
from onecard.planner import engine_facts as facts
from onecard.planner.activations import loss_bytes, token_bytes
from onecard.planner.engine_facts import Taken
from onecard.planner.ledger import Ledger, Line, Tag, ledger
from onecard.planner.memory import lora_weights
from onecard.planner.shapes import Form, ModelShape
from onecard.planner.weights import form_name, held_bytes, held_form

SMALL_TENSOR = 4096  # bitsandbytes keeps the optimizer state of smaller tensors in fp32
STATE_BLOCK = 256  # weights that share the two fp32 scales of an 8-bit optimizer state
H200_RUNS = "whole 7B and 8B models on one H200 agreed within 1%"
CPU_RUNS = "fitted to two runs of the embedded base on two cores"

PhaseName = Literal["load", "forward and backward", "loss", "optimizer", "evaluation", "save"]


@dataclass(frozen=True)
class Phase:
    """One part of a run and the most it holds, bytes."""

    name: PhaseName
    bytes: int


def training_ledger(
    agent: str,
    recipe: Recipe,
    shape: ModelShape,
    row_tokens: int,
    *,
    on_cpu: bool = False,
    context: Taken | None = None,
) -> Ledger:
    """Bytes at the peak of a run whose batches are `recipe.batch.rows` rows of `row_tokens` tokens."""
    stays = _staying_lines(agent, recipe, shape, on_cpu, context)
    lines = [
        *stays,
        *trained_lines(agent, recipe, shape),
        *activation_lines(agent, recipe, shape, row_tokens, on_cpu=on_cpu),
    ]
    return ledger(lines)


def training_phases(
    agent: str,
    recipe: Recipe,
    shape: ModelShape,
    row_tokens: int,
    *,
    on_cpu: bool = False,
    context: Taken | None = None,
) -> tuple[Phase, ...]:
    """What every phase of the run holds at most, in order. The adapter is saved from the processor's memory; nothing is merged."""
    stays = sum(line.bytes for line in _staying_lines(agent, recipe, shape, on_cpu, context))
    trained = trained_lines(agent, recipe, shape)
    weights = sum(line.bytes for line in trained if line.part in ("adapter weights", "trained token rows"))
    state = sum(line.bytes for line in trained)
    tokens = recipe.batch.rows * row_tokens
    kept, forward = _passes(recipe, shape, row_tokens)
    scale = _process_factor(on_cpu)
    stepping = 4 * _trained_weights(recipe, shape) if recipe.optimizer.name == "adamw_torch" else 0
    unpacked = 2 * shape.largest_linear if base_form(recipe, shape) != "none" else 0
    found: dict[PhaseName, int] = {
        "load": stays + unpacked,
        "forward and backward": stays + state + round((kept + forward) * scale),
        "loss": stays + state + round((kept + loss_bytes(recipe, shape, tokens)) * scale),
        "optimizer": stays + state + stepping,
        "evaluation": stays + weights + _answer_bytes(recipe, shape, row_tokens),
        "save": stays + weights,
    }
    return tuple(Phase(name, size) for name, size in found.items())


def _staying_lines(
    agent: str, recipe: Recipe, shape: ModelShape, on_cpu: bool, context: Taken | None = None
) -> list[Line]:
    """What is there from the first moment to the last."""
    form = base_form(recipe, shape)
    base, tag, source = _base(recipe, shape, 4 if recipe.compute_dtype == "fp32" else 2)
    lines = [Line(f"base weights ({form_name(form, recipe.double_quantization)})", agent, base, tag, source, "weights")]
    if on_cpu:
        taken = facts.CPU_TRAINING_PROCESS
        return [*lines, Line("Python and libraries", agent, taken.bytes, taken.tag, taken.source, "process")]
    for part, taken in (
        ("driver context", context or facts.CARD_CONTEXT),
        ("library workspaces", facts.WORKSPACES),
        ("allocator holes", facts.TRAINING_HOLES),
    ):
        lines.append(Line(part, agent, taken.bytes, taken.tag, taken.source, "process"))
    return lines


def base_form(recipe: Recipe, shape: ModelShape) -> Form:
    """The form the frozen base is held in while training; `none` means what the checkpoint already is."""
    return held_form(recipe.base_quantization, shape)


def _base(recipe: Recipe, shape: ModelShape, width: int) -> tuple[int, Tag, str]:
    if recipe.base_quantization == "none" and shape.published_bytes is not None:
        return shape.published_bytes, "measured", "the published checkpoint's size on disk"
    sizes = held_bytes(shape, recipe.base_quantization, recipe.double_quantization, width)
    return sum(sizes.values()), "exact", shape.source


def trained_lines(agent: str, recipe: Recipe, shape: ModelShape, weight_width: int = 4) -> list[Line]:
    """Adapter weights, their gradients and the optimizer's state. `weight_width`: 4 bytes here, 2 where TRL casts to bf16."""
    lora = recipe.lora
    rank = lora.rank
    tensors, rows, tables = _tensors(recipe, shape)
    trained = sum(size * count for size, count in tensors)
    state = sum(_state_bytes(size, recipe.optimizer.name) * count for size, count in tensors)
    adapter = lora_weights(shape, lora)
    return [
        Line("adapter weights", agent, adapter * weight_width, "exact", f"rank {rank}, fp32", "training"),
        Line(
            "trained token rows",
            agent,
            3 * rows * tables * weight_width,
            "exact",
            "rows, originals, deltas",
            "training",
        ),
        Line("gradients", agent, trained * weight_width, "exact", "one for every trained weight", "training"),
        Line("optimizer state", agent, state, "exact", recipe.optimizer.name, "training"),
    ]


def _tensors(recipe: Recipe, shape: ModelShape) -> tuple[list[tuple[int, int]], int, int]:
    """((weights, how many) of every trained tensor, weights of the added tokens' rows in one table, tables that have such rows)."""
    rank, targeted = recipe.lora.rank, shape.targeted(recipe.lora.targets)
    tensors = [(rank * s.in_features, s.count) for s in targeted] + [(rank * s.out_features, s.count) for s in targeted]
    rows = len(recipe.added_tokens) * shape.layout.hidden_size
    tables = 2 if "lm_head" in shape.layout.components else 1
    return [*tensors, (rows, tables if rows else 0)], rows, tables


def _trained_weights(recipe: Recipe, shape: ModelShape) -> int:
    return sum(size * count for size, count in _tensors(recipe, shape)[0])


def _state_bytes(weights: int, optimizer: str) -> int:
    """Two moments a weight: fp32 each, or one byte each and two fp32 scales for every block of 256."""
    if optimizer == "adamw_torch" or weights < SMALL_TENSOR:
        return 8 * weights
    return 2 * weights + 8 * ceil(weights / STATE_BLOCK)


def activation_lines(
    agent: str, recipe: Recipe, shape: ModelShape, row_tokens: int, *, on_cpu: bool = False
) -> list[Line]:
    """What is kept for the backward pass, and the worst moment on top of it: one layer, the loss, or the optimizer's step."""
    tokens, scale = recipe.batch.rows * row_tokens, _process_factor(on_cpu)
    kept, layer = _passes(recipe, shape, row_tokens)
    loss = loss_bytes(recipe, shape, tokens)
    what = f"{recipe.batch.rows} x {row_tokens} tokens"
    how = "inputs of every layer" if recipe.gradient_checkpointing else "all activations of every layer"
    moment = "the loss and the merged head" if loss > layer else "one layer, forward again and backward"
    tag: Tag = "fitted" if on_cpu or shape.experts == 1 else "assumed"
    source = CPU_RUNS if on_cpu else H200_RUNS if shape.experts == 1 else "experts counted like one wide MLP"
    return [
        Line("kept activations", agent, round(kept * scale), tag, f"{how}, {what}; {source}", "working"),
        Line("worst moment", agent, round(max(layer, loss) * scale), tag, f"{moment}; {source}", "working"),
    ]


def _passes(recipe: Recipe, shape: ModelShape, row_tokens: int) -> tuple[int, int]:
    """(bytes kept by all layers, bytes of the worst moment in one layer on top)."""
    form, tokens = base_form(recipe, shape), recipe.batch.rows * row_tokens
    each = token_bytes(recipe, shape, form, row_tokens)
    unpacked = 2 * shape.largest_linear if form != "none" else 0
    if recipe.gradient_checkpointing:
        return shape.layers * each.layer_input * tokens, max(each.forward * tokens, each.backward * tokens + unpacked)
    beyond = max(each.forward, each.backward) - each.layer_whole
    return shape.layers * each.layer_whole * tokens, max(beyond * tokens, 0) + unpacked


def _answer_bytes(recipe: Recipe, shape: ModelShape, row_tokens: int) -> int:
    """The probe before and after: one row, nothing kept, its last logits; with trained rows the merged head."""
    head = 2 * shape.layout.vocab_size * shape.layout.hidden_size if recipe.added_tokens else 0
    return head + row_tokens * (12 * shape.widest + 12 * shape.layout.hidden_size) + 8 * 64 * shape.layout.vocab_size


def _process_factor(on_cpu: bool) -> float:
    return facts.CPU_ACTIVATIONS if on_cpu else 1.0
