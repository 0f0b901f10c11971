"""Seconds from bytes, operations and launches: one prefill, one decode step, for so many callers.

A pass takes the longer of streaming (weights and cache over bandwidth) and computing (operations over rate, and a prefill's traffic);
where launches overlap with work, the longer of that and the host's part, else both.
All times are expected values with a range; the range is that of the engine's constants, narrower where the machine was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil

from onecard.catalog.cards import Card
from onecard.catalog.shapes import KvShape
from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.cache import cached_value_bytes, model_engine
from onecard.planner.engine_facts import EngineFacts, Range
from onecard.planner.ledger import Tag
from onecard.planner.shapes import Form, ModelShape
from onecard.planner.weights import form_of, held_bytes

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
class HostFacts:
    """What eager PyTorch costs the host: microseconds an operator, and in operators what a Linear in a form (decoding, and with more
    than one token), an adapter on a Linear, and each of several adapters in a mixed batch take on top."""

    operator_us: float
    linear: Mapping[Form, float]
    prefill_linear: Mapping[Form, float]
    adapter: Mapping[Form, float]
    mixed_adapter: Mapping[Form, float]


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
    host: HostFacts | None = None


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

    @cached_property
    def engine(self) -> EngineFacts:
        """Constants of the engine that answers. Not for remote models."""
        if model_engine(self.spec, self.shape) == "vllm":
            return facts.VLLM
        return facts.LOCAL_ON_CPU if self.on_cpu else facts.LOCAL_ON_CARD

    @cached_property
    def form(self) -> Form:
        """What the weights are really held in."""
        return form_of(self.spec, self.shape)

    @property
    def factors(self) -> Range:
        """How far measured times may lie from expected ones."""
        return MEASURED_RANGE if self.speed.tag == "measured" else self.engine.range

    def step_s(self, lines: int, tokens_each: int) -> float:
        """Seconds to decode one token for `lines` callers that each have `tokens_each` tokens in the cache."""
        weights_s, host_s, choosing_s = self._of_lines(lines)
        streamed = weights_s + self._cache_bytes(lines, tokens_each) / self._bytes_a_second
        device = max(streamed, self._compute_s(lines, tokens_each))
        return self._pass_s(device, host_s) + choosing_s

    def _of_lines(self, lines: int) -> tuple[float, float, float]:
        """Seconds of a step that are the same however long its lines are: weights, the host's part, choosing tokens."""
        if lines not in self._steps:
            self._steps[lines] = self._stream_s(lines), self._host_s(lines), self._choosing_s(lines)
        return self._steps[lines]

    @cached_property
    def _steps(self) -> dict[int, tuple[float, float, float]]:
        return {}

    def prefill_s(self, lines: int, tokens_each: int) -> float:
        """Seconds until `lines` prompts of `tokens_each` tokens have their first token. They go through the layers in pieces."""
        pieces = self._pieces(lines, tokens_each)
        tokens = lines * tokens_each / pieces
        computed = self._compute_s(tokens, tokens_each / 2) + self._moved_s(lines, tokens)
        device = max(self._stream_s(tokens), computed)
        return (
            pieces * (self._pass_s(device, self._host_s(lines, prefill=True)) + self.engine.piece_s)
            + self._choosing_s(lines)
            + self.engine.request_s
        )

    def forward_host_s(self) -> float:
        """Seconds the host needs to launch one forward pass of an adapted model, nothing chosen from it."""
        each = self.host.adapter.get(self.form, 0.0)
        return (self._plain_operators(prefill=True) + each * self.targeted_linears) * self.host.operator_us * 1e-6

    def _pieces(self, lines: int, tokens_each: int) -> int:
        most = facts.LOCAL_PREFILL_TOKENS if self.engine.eager else facts.VLLM_PREFILL_TOKENS
        return max(ceil(tokens_each / max(most // lines, 1)), 1) if self.engine.eager else 1

    def _pass_s(self, device_s: float, host_s: float) -> float:
        """One pass through the layers: on a card the host launches what comes next while the device works. int8 looks for outliers in
        every Linear and waits for what it finds."""
        waits = not self.engine.overlaps or self.form == "int8"
        return device_s + host_s if waits else max(device_s, host_s)

    def _cache_bytes(self, lines: int, tokens_each: int) -> float:
        """What a step reads and writes of the cache; what lies beyond a window is not looked at. The local engine writes it anew for
        every token and repeats keys and values of groups for every head as soon as lines have padding."""
        if tokens_each not in self._reads:  # times are asked for at few lengths and many numbers of lines
            self._reads[tokens_each] = self._kv.bytes_for(tokens_each, 1, self._value_bytes)
        read = lines * self._reads[tokens_each]
        if not self.engine.eager:
            return read
        return 3 * read + (self._repeated_bytes * lines * tokens_each if lines > 1 else 0)

    @cached_property
    def _reads(self) -> dict[int, int]:
        return {}

    @cached_property
    def _kv(self) -> KvShape:
        return self.shape.kv.held_by(model_engine(self.spec, self.shape))

    @cached_property
    def _value_bytes(self) -> int:
        return cached_value_bytes(self.spec)

    @cached_property
    def _repeated_bytes(self) -> int:
        """Bytes a token of a line where keys and values of groups are repeated for every head."""
        grouped = self.shape.attention_width > self.shape.kv_width and not self.shape.one_key
        return 8 * self.shape.attention_width * self.shape.layers if grouped else 0

    def _moved_s(self, lines: int, tokens: float) -> float:
        """A prefill's traffic beside its products: every operator reads and writes activations, an adapter's in fp32; quantized weights
        are unpacked first."""
        if not self.engine.eager:
            return 0.0
        shape = self.shape
        moved = self._operators_move
        scores = facts.BYTES_A_SCORE * shape.heads * shape.layers if shape.eager_attention or shape.one_key else 0
        moved += scores * tokens / lines / 2
        together = self._adapters_in(lines)
        if together:
            moved += self._adapters_move * (2.5 if together > 1 else 1)
        return (moved * tokens + self._unpacked_bytes) / self._bytes_a_second

    @cached_property
    def _operators_move(self) -> float:
        """Bytes a token of activations that operators read and write."""
        shape = self.shape
        operators: float = shape.operators.per_layer if shape.operators else facts.LAYER_OPERATORS
        return facts.BYTES_AN_OPERATOR * operators * shape.layers * shape.layout.hidden_size

    @cached_property
    def _adapters_move(self) -> float:
        """Bytes a token that an adapter reads and writes."""
        adapted = sum((20 * s.in_features + 50 * s.out_features) * s.count for s in self.shape.linears)
        return adapted * self.targeted_linears / max(self.shape.linear_count, 1)

    @cached_property
    def _unpacked_bytes(self) -> float:
        """Bytes that unpacking quantized weights for a prefill moves."""
        return 4.5 * sum(s.weights for s in self.shape.linears) if self.form in ("nf4", "int8") else 0.0

    def _adapters_in(self, lines: int) -> int:
        return min(self.adapters, lines) if lines > 1 else int(self.adapted)

    def _stream_s(self, tokens: float) -> float:
        """Reading the weights that a pass over so many tokens needs."""
        factor = 1.0 if self.engine.eager else facts.VLLM_STREAM_FACTOR[self.form]
        return streamed_bytes(self.spec, self.shape, tokens) / (self._bytes_a_second * factor)

    @cached_property
    def _bytes_a_second(self) -> float:
        return self.speed.bandwidth_gbs * 1e9 * self.engine.bandwidth_share

    def _compute_s(self, tokens: float, attended: float) -> float:
        """Two operations a weight and token, and four a head position for attention. Zero where the rate is not known."""
        if self.speed.tflops is None:
            return 0.0
        attention = 4 * attended * self.shape.layout.hidden_size * self.shape.layers
        operations = tokens * (2 * self.shape.active_parameters + attention)
        return operations / (self.speed.tflops * 1e12 * self.engine.compute_share)

    def _host_s(self, lines: int, *, prefill: bool = False) -> float:
        engine, shape = self.engine, self.shape
        together = self._adapters_in(lines)
        if not engine.eager:
            more = engine.more_adapters_layer_us * (together - 1)
            adapted = engine.adapter_layer_us + more if together else 0.0
            return shape.layers * (engine.layer_us + adapted) * 1e-6
        each = (self.host.mixed_adapter if together > 1 else self.host.adapter).get(self.form, 0.0)
        return (self._plain_operators(prefill) + each * together * self.targeted_linears) * self.host.operator_us * 1e-6

    def _choosing_s(self, lines: int) -> float:
        """Bringing the logits home and choosing a token for every line."""
        engine = self.engine
        return engine.step_s + engine.line_s * (lines - 1) + engine.word_s * self.shape.layout.vocab_size * lines

    @cached_property
    def host(self) -> HostFacts:
        """What launching costs here: as measured, else this engine's cold-start values."""
        if self.speed.host is not None:
            return self.speed.host
        engine = self.engine
        return HostFacts(
            self.speed.overhead_us,
            engine.linear_operators,
            engine.prefill_linear_operators,
            engine.adapter_operators,
            engine.mixed_adapter_operators,
        )

    def _plain_operators(self, prefill: bool) -> float:
        """Operators of one pass without adapters, what calling modules costs among them."""
        linears = self.host.prefill_linear if prefill else self.host.linear
        return self._unquantized_operators + linears.get(self.form, 0.0) * self.shape.linear_count

    @cached_property
    def _unquantized_operators(self) -> float:
        """The same with every Linear in 16 bits."""
        shape = self.shape
        counted = shape.operators
        if counted is None:
            layer = facts.LAYER_OPERATORS + facts.MODULE_OPERATORS * facts.LAYER_MODULES
            plain = layer * shape.layers + facts.OTHER_OPERATORS + shape.linear_count
        else:
            layer = facts.MODULE_OPERATORS * counted.module_calls_per_layer + counted.linears_per_layer
            plain = layer * shape.layers + counted.in_step(shape.layers)
        unfused = facts.UNFUSED_ATTENTION_OPERATORS * shape.layers if shape.one_key else 0.0
        return plain + unfused


def streamed_bytes(spec: ModelSpec, shape: ModelShape, tokens: float) -> float:
    """Weight bytes that a step over so many tokens reads: embeddings are looked up, and only the experts met are read."""
    always, experts = _streamed(shape, spec.quantization, spec.double_quantization)
    met: float = 1 - (1 - shape.experts_used / shape.experts) ** tokens
    return always + experts * met


@lru_cache(maxsize=1024)
def _streamed(shape: ModelShape, asked: Form, double_quantization: bool) -> tuple[int, int]:
    """Weight bytes that every step reads, and those of all experts."""
    sizes = held_bytes(shape, asked, double_quantization)
    read = sum(
        size for name, size in sizes.items() if name in ("linear", "linear_bias", "norms", "router", "lm_head", "conv")
    )
    if "lm_head" not in sizes:
        read += sizes.get("embeddings", 0)
    return read, sizes.get("experts", 0)
