"""What the KV cache of a model takes, and which engine holds it."""

from __future__ import annotations

from functools import lru_cache

from onecard.catalog.quantization import Quantization
from onecard.catalog.units import KIB
from onecard.errors import FleetError
from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.engine_facts import EngineName, engine_of
from onecard.planner.ledger import Line
from onecard.planner.shapes import ModelShape
from onecard.planner.weights import VLLM_FORMS, held_form


def is_recurrent(shape: ModelShape) -> bool:
    """Whether layers keep a state instead of keys and values (linear attention, state space)."""
    return shape.kv.fixed_state_bytes > 0


def model_engine(spec: ModelSpec, shape: ModelShape) -> EngineName:
    """What answers for this model. `auto` is vLLM where the checkpoint or the layers are what only vLLM can hold."""
    return engine_of(spec, recurrent=_only_vllm(spec.quantization, shape)) if spec.engine == "auto" else spec.engine


@lru_cache(maxsize=1024)
def _only_vllm(asked: Quantization, shape: ModelShape) -> bool:
    return is_recurrent(shape) or held_form(asked, shape) in VLLM_FORMS


def cached_value_bytes(spec: ModelSpec) -> int:
    """Bytes of one cached key or value: 2, or 1 in fp8. vLLM scales fp8 by one number a layer, which takes nothing."""
    return 1 if spec.kv_cache == "fp8" else 2


def token_bytes(spec: ModelSpec, shape: ModelShape) -> float:
    """Bytes a token adds to the cache while it is shorter than every window."""
    return shape.kv.held_by(model_engine(spec, shape)).bytes_per_token(cached_value_bytes(spec))


def check_cache(key: str, spec: ModelSpec, shape: ModelShape) -> None:
    """FleetError when the engine cannot hold the cache in the form asked for."""
    engine = model_engine(spec, shape)
    if spec.kv_cache == "auto" or engine == "vllm":
        return
    raise FleetError(
        f"the {engine} engine cannot hold the KV cache in {spec.kv_cache}",
        where=f"models.{key}.kv_cache",
        allowed="auto",
        next_step="leave it out, or set engine: vllm",
    )


def cache_line(key: str, spec: ModelSpec, shape: ModelShape) -> Line:
    """Keys and values of every caller at full context, in whole blocks in vLLM, with the state of layers that keep one instead."""
    engine, width = model_engine(spec, shape), cached_value_bytes(spec)
    kv = shape.kv.held_by(engine)
    each = f"{kv.bytes_per_token(width) / KIB:.4g} KiB x {spec.context} tokens x {spec.concurrency}"
    if engine == "local":
        # Its cache keeps every position of sliding layers too, so that lines of a batch can be padded and cut.
        size = round(spec.concurrency * (spec.context * kv.bytes_per_token(width) + kv.fixed_state_bytes))
        each += ", sliding layers kept whole" if kv.layers_sliding else ""
    else:
        blocks = -(-spec.context // facts.VLLM_KV_BLOCK)
        size = kv.bytes_for(blocks * facts.VLLM_KV_BLOCK, spec.concurrency, width)
        each += f" in blocks of {facts.VLLM_KV_BLOCK}" if spec.context % facts.VLLM_KV_BLOCK else ""
        each += f", {kv.layers_sliding} layers stop at {kv.window}" if kv.layers_sliding else ""
    each += f", and {kv.fixed_state_bytes / KIB:.4g} KiB of state each" if kv.fixed_state_bytes else ""
    each += f", image {shape.image_tokens} of them" if shape.image_tokens else ""
    each += ", images within them" if shape.takes_images and not shape.image_tokens else ""
    return Line(f"KV cache ({'fp8' if width == 1 else '16-bit'})", key, size, "exact", each, "cache")
