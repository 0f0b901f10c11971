"""What a step of the local engine needs beside weights, adapters and cache: the tensors that are alive together at the worst moment.

Found by following every tensor of a prefill and of a decode step (benchmarks/truth/look.py) and checked against the peaks of whole
models on a card (docs/measurements). Prompts go through the layers in pieces, so the worst moment does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.shapes import Form, ModelShape
from onecard.planner.weights import form_of


@dataclass(frozen=True)
class Moment:
    """Bytes alive together beside what stays, and when that is."""

    bytes: int
    when: str


def worst_moment(spec: ModelSpec, shape: ModelShape, *, adapted: bool) -> Moment:
    """The largest of what a piece of prefill, a decode step of all callers and a join need.

    `adapted`: whether an adapter answers on this model. Activations are 16-bit, an adapter's fp32.
    """
    return max(_moments(spec, shape, adapted), key=lambda moment: moment.bytes)


def _moments(spec: ModelSpec, shape: ModelShape, adapted: bool) -> Iterator[Moment]:
    cached = spec.context * spec.concurrency
    tokens = max(min(facts.LOCAL_PREFILL_TOKENS, cached), spec.concurrency)
    piece = f"a piece of {tokens} tokens"
    form, hidden = form_of(spec, shape), shape.layout.hidden_size
    yield Moment(tokens * mlp_bytes(shape, form), f"the MLP, {piece}")
    if shape.experts > 1:
        yield Moment(tokens * _expert_bytes(shape), f"the experts, {piece}")
    if (
        form == "int8"
    ):  # columns that reach the threshold are multiplied in 16 bits: their inputs apart, their weights unpacked
        outliers = tokens * (7 * shape.widest + 8 * hidden) + 6 * shape.largest_linear
        yield Moment(outliers, f"int8 with every column an outlier, {piece}")
    if form == "nf4":
        yield Moment(tokens * (4 * shape.widest + 8 * hidden) + 2 * shape.largest_linear, f"a layer unpacked, {piece}")
    if adapted:
        yield Moment(tokens * adapter_bytes(shape), f"an adapter in fp32, {piece}")
    yield Moment(attention_bytes(shape, tokens, spec.context, cached), f"attention over {cached} cached tokens")
    # One layer's keys, new beside old: when a token is added, and when a caller joins.
    yield Moment(2 * shape.kv_width * cached + 8 * tokens * hidden, f"the cache of a layer, {cached} tokens")
    yield Moment(2 * spec.concurrency * shape.layout.vocab_size, "the logits")


def mlp_bytes(shape: ModelShape, form: Form) -> int:
    """Bytes a token of the MLP's widest moment: input, residuals and embedding, and what activation and product leave alive."""
    wide, hidden = shape.widest, shape.layout.hidden_size
    if shape.fused_gate:
        return 8 * wide + 8 * hidden
    if shape.gated:  # int8 sums up in 32 bits, then rounds to 16
        return 8 * wide + 11 * hidden if form == "int8" else 6 * wide + 8 * hidden
    return 4 * wide + 8 * hidden


def _expert_bytes(shape: ModelShape) -> int:
    """A token goes through several experts at once: its input, gate and up, activation and product for each of them."""
    return shape.experts_used * (4 * shape.layout.hidden_size + 8 * shape.expert_width) + 8 * shape.layout.hidden_size


def adapter_bytes(shape: ModelShape) -> int:
    """Bytes a token where an adapter acts: the Linear's own result, B's result and the same scaled, both fp32, and the input cast."""
    hidden = shape.layout.hidden_size
    found = 0
    for linear in shape.linears:
        second_of_pair = shape.gated and linear.module in ("up_proj", "w3")
        beside = 2 * shape.widest if second_of_pair else 0
        found = max(found, 10 * linear.out_features + 4 * linear.in_features + beside)
    return found + 8 * hidden


def attention_bytes(shape: ModelShape, tokens: int, context: int, cached: int) -> int:
    """Bytes of one layer's attention for `tokens` new positions, `cached` in all lines together, `context` in a line.

    Keys and values of groups are repeated for every head as soon as there is padding. Without a fused kernel all scores are held:
    in fp32 and 16 bits where transformers has none for the architecture, in fp32 alone where heads share one key.
    """
    hidden, wide = shape.layout.hidden_size, shape.attention_width
    if shape.eager_attention:
        return 12 * tokens * context * shape.heads + 14 * tokens * hidden
    if shape.one_key:
        return 9 * tokens * context * shape.heads + 22 * tokens * hidden
    repeated = 4 * wide * cached if wide > shape.kv_width else 0
    masks = 3 * tokens * context
    return repeated + masks + tokens * (6 * hidden + 4 * wide)
