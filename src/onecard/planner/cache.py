"""What the KV cache of a model takes, and which engine holds it."""

from __future__ import annotations

from onecard.catalog.units import KIB
from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.engine_facts import EngineName, engine_of
from onecard.planner.ledger import Line
from onecard.planner.shapes import ModelShape


def is_recurrent(shape: ModelShape) -> bool:
    """Whether layers keep a state instead of keys and values (linear attention, state space)."""
    return shape.kv.fixed_state_bytes > 0


def model_engine(spec: ModelSpec, shape: ModelShape) -> EngineName:
    """What answers for this model."""
    return engine_of(spec, recurrent=is_recurrent(shape))


def cache_line(key: str, spec: ModelSpec, shape: ModelShape) -> Line:
    """Keys and values of every caller at full context, 16 bits each."""
    kv = shape.kv
    if model_engine(spec, shape) == "local":
        # Its cache keeps every position of sliding layers too, so that lines of a batch can be padded and cut.
        size = round(spec.concurrency * spec.context * kv.bytes_per_token())
        window = ", sliding layers kept whole" if kv.layers_sliding else ""
    else:
        blocks = -(-spec.context // facts.VLLM_KV_BLOCK) * facts.VLLM_KV_BLOCK
        size = kv.bytes_for(blocks, spec.concurrency)
        window = f", {kv.layers_sliding} layers stop at {kv.window}" if kv.layers_sliding else ""
    each = f"{kv.bytes_per_token() / KIB:.4g} KiB x {spec.context} tokens x {spec.concurrency}"
    image = f", image {shape.image_tokens} of them" if shape.image_tokens else ""
    return Line("KV cache (16-bit)", key, size, "exact", each + window + image, "cache")
