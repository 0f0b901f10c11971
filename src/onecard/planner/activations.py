"""What a training step keeps of its tokens: bytes a token, by architecture, adapter and base.

Each sum was read off the tensors alive at the peak of a forward and backward pass on a card (benchmarks/truth/look.py, PEFT 0.21,
TRL 1.16, bf16 autocast) and checked against whole models. `wide` is the MLP's inner width, `hidden` the model's. A tensor of 16 bits
over `wide` is 2 x wide bytes, a dropout's mask one byte a value, and layer norms come out of autocast in fp32.
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
# TRL 1.16 computes the loss in tiles of at most this size, kernels/chunked_logprob.py.
TILE_TOKENS, TILE_WORDS = (
    4096,
    32768,
)  # TRL 1.16 computes the loss in tiles of at most this size, kernels/chunked_logprob.py


@dataclass(frozen=True)
class TokenBytes:
    """Bytes a token: the input a checkpointed layer keeps, all that a layer keeps without, and the peaks beside what is kept: while
    a layer goes forward for the last time, and while it goes backward, when a quantized weight is unpacked as well."""

    layer_input: int
    layer_whole: int
    forward: int
    backward: int


def token_bytes(recipe: Recipe, shape: ModelShape, form: Form, length: int) -> TokenBytes:
    """`length` is that of a row: scores that are not fused grow with it."""
    found = _layer_norm(recipe, shape) if shape.architecture in LAYER_NORM else _rms_norm(recipe, shape, form)
    scale = 2 if recipe.compute_dtype == "fp32" else 1
    scores = _scores(shape, length)
    backward = max(found.backward + scores // 2, scores + 16 * shape.layout.hidden_size if scores else 0)
    return TokenBytes(
        found.layer_input * scale,
        found.layer_whole * scale + scores // 2,
        found.forward * scale + scores // 2,
        backward * scale,
    )


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
    return TokenBytes(2 * hidden, whole, forward, inner + wide + outer + 2 * hidden)


def _layer_norm(recipe: Recipe, shape: ModelShape) -> TokenBytes:
    """GPT-NeoX's kin: norms in fp32 make residuals, results and activations fp32."""
    wide, hidden, dropped = shape.widest, shape.layout.hidden_size, recipe.lora.dropout > 0
    inner = wide * (11 if dropped else 8)
    outer = hidden * (32 if dropped else 26)
    forward = wide * (15 if dropped else 10) + outer + 4 * hidden
    return TokenBytes(4 * hidden, inner + outer, forward, wide * (13 if dropped else 10) + outer)


def _scores(shape: ModelShape, length: int) -> int:
    """Bytes a token of attention scores that no kernel fuses, forward and backward: twelve a score, half of them kept."""
    return 12 * shape.heads * length if shape.eager_attention or shape.one_key else 0


def loss_bytes(recipe: Recipe, shape: ModelShape, tokens: int) -> int:
    """The loss in tiles; with trained rows also the merged head, its gradient in fp32 and the same in 16 bits."""
    vocabulary, hidden = shape.layout.vocab_size, shape.layout.hidden_size
    tile = 2 * min(tokens, TILE_TOKENS) * min(vocabulary, TILE_WORDS)
    head = 8 * vocabulary * hidden if recipe.added_tokens else 0
    return head + tile + 14 * hidden * tokens
