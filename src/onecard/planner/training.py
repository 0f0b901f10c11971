"""The peak memory of training one adapter, part by part.

It follows onecard's own run: fp32 adapter weights, TRL's loss in tiles, trained rows of added tokens. Activations are counted from
the tensors autograd keeps and agree within 5% with the QLoRA runs on an H200 that the tests name.
"""

from __future__ import annotations

from math import ceil

from onecard.catalog.quantization import Quantization, weight_bytes
from onecard.fleet.recipe import Recipe
from onecard.planner import engine_facts as facts
from onecard.planner.ledger import Ledger, Line, Tag, ledger
from onecard.planner.memory import lora_weights
from onecard.planner.shapes import Form, ModelShape
from onecard.planner.weights import form_name, held_form

TILE_TOKENS, TILE_WORDS = (
    4096,
    32768,
)  # TRL 1.16 computes the loss in tiles of at most this size, kernels/chunked_logprob.py
SMALL_TENSOR = 4096  # bitsandbytes keeps the optimizer state of smaller tensors in fp32
H200_RUNS = "within 5% of TRL 1.16 QLoRA runs of a 7B on one H200"
CPU_RUNS = "fitted to two runs of the embedded base on two cores"
STATE_BLOCK = 256  # weights that share the two fp32 scales of an 8-bit optimizer state


def training_ledger(agent: str, recipe: Recipe, shape: ModelShape, row_tokens: int, *, on_cpu: bool = False) -> Ledger:
    """Bytes at the peak of a run whose batches are `recipe.batch.rows` rows of `row_tokens` tokens."""
    width = 4 if recipe.compute_dtype == "fp32" else 2
    form = base_form(recipe, shape)
    base, tag, source = _base(recipe, shape, form, width)
    lines = [Line(f"base weights ({form_name(form, recipe.double_quantization)})", agent, base, tag, source, "weights")]
    lines += trained_lines(agent, recipe, shape)
    lines += activation_lines(agent, recipe, shape, row_tokens, on_cpu=on_cpu)
    working = sum(line.bytes for line in lines if line.kind == "working")
    slack = round(facts.SLACK_OF_WEIGHTS * base + facts.SLACK_OF_WORKING * working)
    taken = facts.CPU_TRAINING_PROCESS if on_cpu else facts.CARD_CONTEXT
    process = "Python and libraries" if on_cpu else "driver context"
    lines.append(Line(process, agent, taken.bytes, taken.tag, taken.source, "process"))
    lines.append(Line("allocator slack", agent, slack, "assumed", "as while serving", "process"))
    return ledger(lines)


def base_form(recipe: Recipe, shape: ModelShape) -> Form:
    """The form the frozen base is held in while training; `none` means what the checkpoint already is."""
    return held_form(recipe.base_quantization, shape)


def _base(recipe: Recipe, shape: ModelShape, form: Form, width: int) -> tuple[int, Tag, str]:
    if recipe.base_quantization == "none" and shape.published_bytes is not None:
        return shape.published_bytes, "measured", "the published checkpoint's size on disk"
    counted: Quantization = "none" if form == "mxfp4" else form
    size = weight_bytes(shape.layout, counted, double_quantization=recipe.double_quantization, dtype_bytes=width)
    return size, "exact", shape.source


def trained_lines(agent: str, recipe: Recipe, shape: ModelShape, weight_width: int = 4) -> list[Line]:
    """Adapter weights, their gradients and the optimizer's state. `weight_width`: 4 bytes here, 2 where TRL casts to bf16."""
    lora = recipe.lora
    rank, targeted = lora.rank, shape.targeted(lora.targets)
    tensors = [(rank * s.in_features, s.count) for s in targeted] + [(rank * s.out_features, s.count) for s in targeted]
    rows = len(recipe.added_tokens) * shape.layout.hidden_size
    tables = 2 if "lm_head" in shape.layout.components else 1
    tensors.append((rows, tables if rows else 0))
    trained = sum(size * count for size, count in tensors)
    state = sum(_state_bytes(size, recipe.optimizer.name) * count for size, count in tensors)
    adapter = lora_weights(shape, lora)
    lines = [
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
    if recipe.compute_dtype == "bf16" and weight_width == 4:
        lines.append(Line("bf16 copies", agent, adapter * 2, "exact", "autocast keeps one of the adapter", "training"))
    return lines


def _state_bytes(weights: int, optimizer: str) -> int:
    """Two moments a weight: fp32 each, or one byte each and two fp32 scales for every block of 256."""
    if optimizer == "adamw_torch" or weights < SMALL_TENSOR:
        return 8 * weights
    return 2 * weights + 8 * ceil(weights / STATE_BLOCK)


def activation_lines(
    agent: str, recipe: Recipe, shape: ModelShape, row_tokens: int, *, on_cpu: bool = False
) -> list[Line]:
    """What is kept for the backward pass, and the worst moment on top of it: the loss, or one layer's backward."""
    tokens = recipe.batch.rows * row_tokens
    scale = (2 if recipe.compute_dtype == "fp32" else 1) * (facts.CPU_ACTIVATIONS if on_cpu else 1)
    hidden, vocab = shape.layout.hidden_size, shape.layout.vocab_size
    layer = layer_bytes_per_token(recipe, shape)
    checkpointing = recipe.gradient_checkpointing
    kept = tokens * shape.layers * (2 * hidden if checkpointing else layer) * scale
    loss = min(tokens, TILE_TOKENS) * min(vocab, TILE_WORDS) * 8
    loss += (
        6 * vocab * hidden if recipe.added_tokens else 0
    )  # the head with its trained rows, and the gradient of all of it
    backward = tokens * ((layer if checkpointing else 0) + 4 * shape.widest) * scale
    backward += 4 * shape.largest_linear if base_form(recipe, shape) in ("nf4", "int8") else 0
    masks = recipe.batch.rows * row_tokens**2 * 2 if recipe.batch.rows > 1 else 0
    what = f"{recipe.batch.rows} x {row_tokens} tokens"
    how = "inputs of every layer" if checkpointing else "all activations of every layer"
    fitted = CPU_RUNS if on_cpu else H200_RUNS
    moment = "the loss in tiles" if loss > backward else "one layer's backward"
    return [
        Line("kept activations", agent, round(kept), "fitted", f"{how}, {what}; {fitted}", "working"),
        Line("worst moment", agent, round(max(loss, backward)), "fitted", f"{moment}; {fitted}", "working"),
        Line("attention mask", agent, masks, "assumed", "rows x tokens x tokens, 16-bit", "working"),
    ]


def layer_bytes_per_token(recipe: Recipe, shape: ModelShape) -> int:
    """Bytes autograd keeps of one decoder layer for a token, 16-bit compute.

    Norms and residuals (12 x hidden), every Linear's output and the MLP's product in 16 bits; a LoRA keeps its input, and with
    dropout a mask of one byte. For Mistral-7B with seven targets that is 280 kB; 74 GiB without checkpointing says 285 kB.
    """
    layers, hidden = shape.layers, shape.layout.hidden_size
    outputs = sum(s.out_features * s.count for s in shape.linears) / layers
    targeted = sum(s.in_features * s.count for s in shape.targeted(recipe.lora.targets)) / layers
    return round(12 * hidden + 2 * outputs + 2 * shape.widest + targeted * (3 if recipe.lora.dropout else 2))
