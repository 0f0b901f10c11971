"""What a training step keeps of its tokens: bytes a token, by architecture, adapter and base.

Layers whose adapters are computed fused (16-bit and nf4 bases) keep what their gradients are made of and nothing else; int8 layers keep
what PEFT's own forward under autocast does. The sums were read off the tensors alive at the peak of a pass on a card and checked against
whole models (docs/measurements). `wide` is the MLP's inner width, `hidden` the model's; a tensor of 16 bits over `wide` is 2 x wide bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from onecard.fleet.recipe import Recipe
from onecard.planner.shapes import Form, ModelShape

LAYER_NORM = frozenset(
    {
        "bloom", "codegen", "cohere", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "nemotron", "olmo",
        "opt", "phi", "phimoe", "stablelm", "starcoder2",
    }
)  # fmt: skip
QK_NORM = frozenset(
    {"qwen3", "qwen3_moe", "olmo2", "olmo3", "gemma3", "gemma3_text", "exaone4", "apertus"}
)  # norms of queries and keys
SANDWICHED = frozenset(
    {"gemma2", "gemma3", "gemma3_text", "gemma4_text", "glm4"}
)  # a norm before and after attention and MLP
ONE_PROJECTION = frozenset(
    {"phi3", "gpt_neox", "falcon", "mpt", "gpt2", "gpt_bigcode", "bloom"}
)  # values are a view of one wide tensor
SILU = frozenset({"silu", "swish"})

PIECE_LOGITS = 1 << 27  # logits computed at a time: training/losses.py
LOGIT_BYTES = 12  # in 16 bits, in fp32, their softmax and its gradient
LEARNED_SHARE = 0.75  # of a row's tokens; in between what prompts and answers have in most data


@dataclass(frozen=True)
class TokenBytes:
    """Bytes a token: the input a recomputed layer keeps, all that a layer keeps without, and what one layer takes beside what is kept
    while it goes backward: one that was recomputed first, and one that was not."""

    layer_input: int
    layer_whole: int
    recomputed: int
    kept: int


def token_bytes(
    recipe: Recipe, shape: ModelShape, form: Form, length: int, *, keys_repeated: bool = False
) -> TokenBytes:
    """`length` is that of a row: scores that are not fused grow with it. `keys_repeated`: torch before 2.12 cannot let heads share keys
    in packed attention."""
    scale = 2 if recipe.compute_dtype == "fp32" else 1
    scores = _scores(shape, length)
    if form == "int8":
        found = _layer_norm(recipe, shape) if shape.architecture in LAYER_NORM else _rms_norm(recipe, shape, form)
    else:
        found = _fused(recipe, shape, keys_repeated)
    moment = max(found.recomputed + scores // 2, scores + 16 * shape.layout.hidden_size if scores else 0)
    return TokenBytes(
        found.layer_input * scale,
        found.layer_whole * scale + scores // 2,
        moment * scale,
        found.kept * scale + scores // 2,
    )


def _fused(recipe: Recipe, shape: ModelShape, keys_repeated: bool) -> TokenBytes:
    """Inputs of norms and of groups of Linears, queries, keys, values, the attention's answer, and what the MLP's gradient needs."""
    wide, hidden = shape.widest, shape.layout.hidden_size
    queries, keys = shape.attention_width, shape.kv_width
    repeated = keys_repeated and keys < queries
    attention = 4 * queries + 4 * (queries if repeated else keys) + 4 * shape.heads
    if shape.architecture in QK_NORM:
        attention += 2 * (queries + keys)
    if shape.architecture in ONE_PROJECTION and not repeated:
        attention += 2 * (queries + keys)
    silu = shape.activation in SILU or (not shape.activation and shape.architecture not in SANDWICHED)
    taken = shape.gated and not shape.fused_gate and silu  # its product is computed again backward
    gated = shape.gated or shape.fused_gate
    mlp = 4 * wide if taken or not gated else 8 * wide
    norms = (12 if shape.architecture in SANDWICHED else 10 if shape.architecture == "phi3" else 8) * hidden
    adapters = 2 * recipe.lora.rank * -(-sum(s.count for s in shape.targeted(recipe.lora.targets)) // shape.layers)
    whole = norms + attention + mlp + adapters
    product = 2 * wide if taken else 0
    backward = product + (8 if gated else 4) * wide + 6 * hidden
    return TokenBytes(2 * hidden, whole, whole + backward, backward)


def _rms_norm(recipe: Recipe, shape: ModelShape, form: Form) -> TokenBytes:
    """Llama's kin. With dropout every adapter keeps its own input and mask; without, those of one input share it."""
    wide, hidden, dropped = shape.widest, shape.layout.hidden_size, recipe.lora.dropout > 0
    keys = 4 * shape.kv_width
    inner = wide * (9 if dropped else 8)  # gate, up, activation, the down projection's input and its mask
    outer = hidden * (30 if dropped else 16) + keys
    if shape.fused_gate:
        outer = hidden * (24 if dropped else 14) + keys
    whole = inner + outer + (2 * wide + 4 * hidden if form == "int8" else 0)  # int8 keeps what it multiplied
    forward = inner + outer + (2 * wide if dropped else 0) + 10 * hidden
    if form == "none":  # PEFT casts what a 16-bit Linear is given to fp32, drops out there and casts back
        forward += 8 * wide
    if shape.fused_gate:
        forward = max(forward, 12 * wide + 32 * hidden)
    moment = max(forward, inner + wide + outer + 2 * hidden)
    return TokenBytes(2 * hidden + _held_by_products(shape), whole, moment, max(moment - whole, 0))


def _layer_norm(recipe: Recipe, shape: ModelShape) -> TokenBytes:
    """GPT-NeoX's kin: norms in fp32 make residuals, results and activations fp32."""
    wide, hidden, dropped = shape.widest, shape.layout.hidden_size, recipe.lora.dropout > 0
    inner = wide * (11 if dropped else 8)
    outer = hidden * (32 if dropped else 26)
    forward = wide * (15 if dropped else 10) + outer + 4 * hidden
    moment = max(forward, wide * (13 if dropped else 10) + outer)
    return TokenBytes(4 * hidden + _held_by_products(shape), inner + outer, moment, max(moment - inner - outer, 0))


def _held_by_products(shape: ModelShape) -> int:
    """bitsandbytes' int8 product holds its input where recomputation cannot let go of it: of attention, its output, and both of the MLP."""
    return 4 * shape.layout.hidden_size + 2 * shape.attention_width + 2 * shape.widest


def _scores(shape: ModelShape, length: int) -> int:
    """Bytes a token of attention scores that no kernel fuses, forward and backward: twelve a score, half of them kept."""
    return 12 * shape.heads * length if shape.eager_attention or shape.one_key else 0


def loss_bytes(recipe: Recipe, shape: ModelShape, tokens: int) -> int:
    """The loss in pieces of the learned positions, and the states it is sent back through."""
    vocabulary, hidden = shape.layout.vocab_size, shape.layout.hidden_size
    places = min(round(LEARNED_SHARE * tokens), max(16, PIECE_LOGITS // max(vocabulary, 1)))
    return LOGIT_BYTES * places * vocabulary + 6 * hidden * tokens
