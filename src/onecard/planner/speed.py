"""Seconds from bytes, operations and launches: one prefill, one decode step, for so many callers.

A step takes the longer of streaming (weights and cache over bandwidth) and computing (operations over rate), plus the host's part.
All times are expected values with a range; the range is that of the engine's constants, narrower where the machine was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from onecard.catalog.cards import Card
from onecard.catalog.quantization import component_bytes
from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.cache import model_engine
from onecard.planner.engine_facts import EngineFacts, Range
from onecard.planner.ledger import Tag
from onecard.planner.shapes import ModelShape
from onecard.planner.weights import form_of

MEASURED_RANGE = Range(0.8, 1.25)


@dataclass(frozen=True)
class Seconds:
    """An expected time and the range the measured one should fall into."""

    low: float
    expected: float
    high: float

    @classmethod
    def around(cls, expected: float, factors: Range) -> Seconds:
        return cls(expected * factors.low, expected, expected * factors.high)


@dataclass(frozen=True)
class SpeedFacts:
    """What a machine can do: 10^9 bytes/s, dense 16-bit TFLOP/s (None: not known), microseconds an eager operator takes to launch.

    Measured figures (`tag` "measured") are used in place of the cold-start ones and narrow every range.
    """

    bandwidth_gbs: float
    tflops: float | None
    overhead_us: float
    tag: Tag
    source: str


def cold_start(card: Card) -> SpeedFacts:
    """What is believed of a card before anybody measured it."""
    if is_cpu(card):
        source = "bandwidth measured; compute rate and overhead of two cores of an EPYC"
        return SpeedFacts(card.bandwidth_gbs, facts.CPU_TFLOPS, facts.CPU_OVERHEAD_US, "assumed", source)
    rate = card.tflops.get("bf16") or card.tflops.get("fp16")
    source = f"data sheet of {card.name}; launch overhead of a common host"
    return SpeedFacts(card.bandwidth_gbs, rate, facts.HOST_OVERHEAD_US, "assumed", source)


def is_cpu(card: Card) -> bool:
    """Whether the "card" is this machine's processor."""
    return card.architecture == "CPU"


@dataclass(frozen=True)
class Answering:
    """A model as it answers: what speed follows from.

    `adapters` is how many different ones may share a batch; `adapted` whether the request looked at uses one of them.
    """

    spec: ModelSpec
    shape: ModelShape
    speed: SpeedFacts
    adapters: int
    adapted: bool
    targeted_linears: int
    on_cpu: bool

    @property
    def engine(self) -> EngineFacts:
        """Constants of the engine that answers. Not for remote models."""
        if model_engine(self.spec, self.shape) == "vllm":
            return facts.VLLM
        return facts.LOCAL_ON_CPU if self.on_cpu else facts.LOCAL_ON_CARD

    @property
    def factors(self) -> Range:
        """How far measured times may lie from expected ones."""
        return MEASURED_RANGE if self.speed.tag == "measured" else self.engine.range

    def step_s(self, lines: int, tokens_each: int) -> float:
        """Seconds to decode one token for `lines` callers that each have `tokens_each` tokens in the cache."""
        streamed = self._stream_s(lines, lines * self.shape.kv.bytes_for(tokens_each))
        return max(streamed, self._compute_s(lines, tokens_each)) + self._host_s(lines)

    def prefill_s(self, lines: int, tokens_each: int) -> float:
        """Seconds until `lines` prompts of `tokens_each` tokens have their first token."""
        tokens = lines * tokens_each
        computed = self._compute_s(tokens, tokens_each / 2)
        return max(self._stream_s(tokens, 0), computed) + self._host_s(lines) + self.engine.request_s

    def _stream_s(self, tokens: int, cache_bytes: float) -> float:
        engine, form = self.engine, form_of(self.spec, self.shape)
        factor = 1.0 if engine.eager else facts.VLLM_STREAM_FACTOR[form]
        rate = self.speed.bandwidth_gbs * 1e9 * engine.bandwidth_share
        return streamed_bytes(self.spec, self.shape, tokens) / (rate * factor) + cache_bytes / rate

    def _compute_s(self, tokens: int, attended: float) -> float:
        """Two operations a weight and token, and four a head position for attention. Zero where the rate is not known."""
        if self.speed.tflops is None:
            return 0.0
        attention = 4 * attended * self.shape.layout.hidden_size * self.shape.layers
        operations = tokens * (2 * self.shape.active_parameters + attention)
        return operations / (self.speed.tflops * 1e12 * self.engine.compute_share)

    def _host_s(self, lines: int) -> float:
        engine, shape = self.engine, self.shape
        together = min(self.adapters, lines) if lines > 1 else int(self.adapted)
        fixed = engine.step_s + engine.line_s * (lines - 1)
        if not engine.eager:
            more = engine.more_adapters_layer_us * (together - 1)
            adapted = engine.adapter_layer_us + more if together else 0.0
            return fixed + shape.layers * (engine.layer_us + adapted) * 1e-6
        form = form_of(self.spec, shape)
        plain = facts.LAYER_OPERATORS * shape.layers + facts.OTHER_OPERATORS
        plain += facts.LINEAR_OPERATORS.get(form, 1) * shape.linear_count
        each_adapter = facts.MIXED_ADAPTER_OPERATORS if together > 1 else facts.ADAPTER_OPERATORS
        adapted = each_adapter * together * self.targeted_linears
        weighed = plain * engine.operator_us_factor.get(form, 1.0) + adapted * engine.adapter_us_factor
        return fixed + weighed * self.speed.overhead_us * 1e-6


def streamed_bytes(spec: ModelSpec, shape: ModelShape, tokens: int) -> float:
    """Weight bytes that a step over so many tokens reads: embeddings are looked up, and only the experts met are read."""
    form = form_of(spec, shape)
    if form == "mxfp4":
        sizes: dict[str, float] = {name: 2.0 * count for name, count in shape.layout.components.items()}
        sizes["experts"] = shape.layout.components.get("experts", 0) * 17 / 32
    else:
        counted = component_bytes(shape.layout, form, double_quantization=spec.double_quantization)
        sizes = {name: float(size) for name, size in counted.items()}
    read = sum(
        size for name, size in sizes.items() if name in ("linear", "linear_bias", "norms", "router", "lm_head", "conv")
    )
    if "lm_head" not in sizes:
        read += sizes.get("embeddings", 0)
    met = 1 - (1 - shape.experts_used / shape.experts) ** tokens
    return read + sizes.get("experts", 0) * met
