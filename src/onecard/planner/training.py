"""The memory of training one adapter over its phases, and the ledger of the worst of them.

It follows onecard's own loop: passes of packed rows, fused adapters with fp32 weights and 16-bit copies, the loss in pieces, layers
recomputed as the recipe says. What a token keeps stands in activations.py. On a CPU the resident set is meant.
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
from onecard.planner.training_passes import passes_of
from onecard.planner.weights import form_name, held_bytes, held_form

SMALL_TENSOR = 4096  # bitsandbytes keeps the optimizer state of smaller tensors in fp32
STATE_BLOCK = 256  # weights that share the two fp32 scales of an 8-bit optimizer state
H200_RUNS = "fitted to whole models of 4B to 14B on one H200 (docs/measurements)"
CPU_RUNS = "fitted to three runs of the embedded base on two cores"

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
    keys_repeated: bool = False,
) -> Ledger:
    """Bytes at the peak of a run whose longest row has `row_tokens` tokens.

    `keys_repeated`: as torch before 2.12 attends over packed rows (`token_bytes`)."""
    lines = [
        *_staying_lines(agent, recipe, shape, on_cpu, context),
        *trained_lines(agent, recipe, shape, several=passes_of(recipe, shape, row_tokens).several),
        *activation_lines(agent, recipe, shape, row_tokens, on_cpu=on_cpu, keys_repeated=keys_repeated),
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
    several = passes_of(recipe, shape, row_tokens).several
    during = sum(line.bytes for line in trained_lines(agent, recipe, shape, several=several))
    stepping = sum(line.bytes for line in trained_lines(agent, recipe, shape, several=True))
    weights = sum(line.bytes for line in trained_lines(agent, recipe, shape) if line.part in RESIDENT)
    kept, moment, loss = _passes(recipe, shape, row_tokens)
    scale = _process_factor(on_cpu)
    moments = 4 * _trained_weights(recipe, shape) if recipe.optimizer.name == "adamw_torch" else 0
    unpacked = 2 * shape.largest_linear if base_form(recipe, shape) != "none" else 0
    found: dict[PhaseName, int] = {
        "load": stays + unpacked,
        "forward and backward": stays + during + round((kept + moment) * scale),
        "loss": stays + during + round((kept + loss) * scale),
        "optimizer": stays + stepping + moments,
        "evaluation": stays + weights + _answer_bytes(recipe, shape, row_tokens),
        "save": stays + weights,
    }
    return tuple(Phase(name, size) for name, size in found.items())


RESIDENT = ("adapter weights", "trained token rows", "whole embedding and head")


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


def trained_lines(agent: str, recipe: Recipe, shape: ModelShape, *, several: bool = True) -> list[Line]:
    """Adapter weights with what fused layers keep beside them, their gradients, and the optimizer's state.

    `several`: a step has more than one forward pass, so its gradients are there while the next is computed. In a single pass they come
    as activations go.
    """
    lora, form = recipe.lora, base_form(recipe, shape)
    tensors, rows, tables = _tensors(recipe, shape)
    trained = sum(size * count for size, count in tensors)
    state = sum(_state_bytes(size, recipe.optimizer.name) * count for size, count in tensors)
    adapter = lora_weights(shape, lora)
    fused = form != "int8"
    whole = _whole_tables(recipe, shape)
    lines = [
        Line("adapter weights", agent, 4 * adapter, "exact", f"rank {lora.rank}, fp32", "training"),
        Line(
            "adapter copies",
            agent,
            2 * adapter if fused else 0,
            "exact",
            "in the run's dtype, anew each step",
            "training",
        ),
        Line("trained token rows", agent, 12 * rows * tables, "exact", "rows, originals, deltas", "training"),
        Line(
            "whole embedding and head", agent, 4 * whole, "exact", "copies in fp32, token_training: whole", "training"
        ),
        Line(
            "unpacked scales",
            agent,
            _scale_bytes(recipe, shape) if fused else 0,
            "exact",
            "fp32, one a block of 64",
            "training",
        ),
        Line("gradients", agent, 4 * trained if several else 0, "exact", "one for every trained weight", "training"),
        Line("optimizer state", agent, state, "exact", recipe.optimizer.name, "training"),
    ]
    return [line for line in lines if line.bytes or line.part in ("adapter weights", "gradients", "optimizer state")]


def _scale_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """Scales that are quantized themselves are unpacked once for the run, for the layers that get an adapter."""
    if base_form(recipe, shape) != "nf4" or not recipe.double_quantization:
        return 0
    return sum(
        4 * ceil(s.in_features * s.out_features / 64) * s.count
        for s in shape.targeted(recipe.lora.targets)
        if s.quantized
    )


def _tensors(recipe: Recipe, shape: ModelShape) -> tuple[list[tuple[int, int]], int, int]:
    """((weights, how many) of every trained tensor, weights of the added tokens' rows in one table, tables that have such rows)."""
    rank, targeted = recipe.lora.rank, shape.targeted(recipe.lora.targets)
    tensors = [(rank * s.in_features, s.count) for s in targeted] + [(rank * s.out_features, s.count) for s in targeted]
    tables = 2 if "lm_head" in shape.layout.components else 1
    if recipe.token_training == "whole" and recipe.added_tokens:
        return [*tensors, (shape.layout.vocab_size * shape.layout.hidden_size, tables)], 0, tables
    rows = len(recipe.added_tokens) * shape.layout.hidden_size
    return [*tensors, (rows, tables if rows else 0)], rows, tables


def _whole_tables(recipe: Recipe, shape: ModelShape) -> int:
    """Weights of the embedding and the head where all of them are trained."""
    if recipe.token_training != "whole" or not recipe.added_tokens:
        return 0
    return shape.layout.vocab_size * shape.layout.hidden_size * (2 if "lm_head" in shape.layout.components else 1)


def _trained_weights(recipe: Recipe, shape: ModelShape) -> int:
    return sum(size * count for size, count in _tensors(recipe, shape)[0])


def _state_bytes(weights: int, optimizer: str) -> int:
    """Two moments a weight: fp32 each, or one byte each and two fp32 scales for every block of 256."""
    if optimizer == "adamw_torch" or weights < SMALL_TENSOR:
        return 8 * weights
    return 2 * weights + 8 * ceil(weights / STATE_BLOCK)


def activation_lines(
    agent: str, recipe: Recipe, shape: ModelShape, row_tokens: int, *, on_cpu: bool = False, keys_repeated: bool = False
) -> list[Line]:
    """What is kept for the backward pass, the worst moment on top of it (one layer, or the loss), and what the allocator cannot join."""
    scale = _process_factor(on_cpu)
    kept, layer, loss = _passes(recipe, shape, row_tokens, keys_repeated=keys_repeated)
    laid = passes_of(recipe, shape, row_tokens)
    what = f"{laid.tokens:,} tokens {'packed' if laid.packed else 'padded'}"
    again = recomputed_layers(recipe, shape)
    how = {0: "all activations of every layer", shape.layers: "inputs of every layer"}.get(
        again, f"inputs of {again} layers, all activations of {shape.layers - again}"
    )
    moment = "the loss" if loss > layer else "one layer backward"
    tag: Tag = "fitted" if on_cpu or (shape.experts == 1 and base_form(recipe, shape) != "int8") else "assumed"
    source = CPU_RUNS if on_cpu else H200_RUNS if shape.experts == 1 else "experts counted like one wide MLP"
    lines = [
        Line("kept activations", agent, round(kept * scale), tag, f"{how}, {what}; {source}", "working"),
        Line("worst moment", agent, round(max(layer, loss) * scale), tag, f"{moment}; {source}", "working"),
    ]
    if not on_cpu:
        holes = facts.TRAINING_HOLES.bytes + round(facts.TRAINING_HOLES_OF_LOSS * loss)
        lines.append(
            Line("allocator holes", agent, holes, facts.TRAINING_HOLES.tag, facts.TRAINING_HOLES.source, "process")
        )
    return lines


def recomputed_layers(recipe: Recipe, shape: ModelShape) -> int:
    """How many layers are computed again backward. `auto` counts as all: a plan that knows the card settles it (`settled`)."""
    asked = recipe.gradient_checkpointing
    if asked is True or asked == "auto":
        return shape.layers
    return 0 if asked is False else min(int(asked), shape.layers)


def settled(recipe: Recipe, shape: ModelShape, row_tokens: int, available: int, *, on_cpu: bool = False) -> Recipe:
    """The recipe with `auto` replaced by the fewest recomputed layers that fit; all of them where none do, none on a CPU."""
    if recipe.gradient_checkpointing != "auto":
        return recipe
    if on_cpu:
        return recipe.model_copy(update={"gradient_checkpointing": False})
    low, high = 0, shape.layers
    while low < high:
        middle = (low + high) // 2
        tried = recipe.model_copy(update={"gradient_checkpointing": middle})
        if training_ledger("", tried, shape, row_tokens).total_bytes <= available:
            high = middle
        else:
            low = middle + 1
    return recipe.model_copy(update={"gradient_checkpointing": low})


def _passes(recipe: Recipe, shape: ModelShape, row_tokens: int, *, keys_repeated: bool = False) -> tuple[int, int, int]:
    """(bytes kept by all layers, bytes of one layer backward on top, bytes of the loss on top) in the heaviest pass."""
    form, tokens = base_form(recipe, shape), passes_of(recipe, shape, row_tokens).tokens
    each = token_bytes(recipe, shape, form, row_tokens, keys_repeated=keys_repeated)
    unpacked = 2 * shape.largest_linear if form != "none" else 0
    again = recomputed_layers(recipe, shape)
    kept = again * each.layer_input + (shape.layers - again) * each.layer_whole
    moment = each.recomputed if again else each.kept
    return kept * tokens, moment * tokens + unpacked, loss_bytes(recipe, shape, tokens)


def _answer_bytes(recipe: Recipe, shape: ModelShape, row_tokens: int) -> int:
    """The probe before and after: one row, nothing kept, its last logits; with trained rows the merged head."""
    head = 2 * shape.layout.vocab_size * shape.layout.hidden_size if recipe.added_tokens else 0
    return head + row_tokens * (12 * shape.widest + 12 * shape.layout.hidden_size) + 8 * 64 * shape.layout.vocab_size


def _process_factor(on_cpu: bool) -> float:
    return facts.CPU_ACTIVATIONS if on_cpu else 1.0
