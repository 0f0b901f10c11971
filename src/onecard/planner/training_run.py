"""One training run: whether it fits, how long it takes, what it costs, and what to change if it does not fit.

Time is reckoned from the operations of the recipe at the share of the card's rate that QLoRA runs reached, and from what the host
needs to launch them; small batches are ruled by the second. Dollars are that time at a price somebody asked at a date, never a bare
figure; electricity is not in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from onecard.catalog.cards import Price, Quote
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.chance import chance, limit, widened
from onecard.planner.engine_facts import Range, Taken
from onecard.planner.ledger import Ledger, Tag
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import Answering, Seconds, SpeedFacts
from onecard.planner.training import Phase, base_form, recomputed_layers, settled, training_ledger, training_phases
from onecard.planner.training_passes import passes_per_epoch

# How many tokens there may be for one that was reckoned from characters: ordinary English has 4 to 5 characters a token, code, figures
# and other languages 2 to 3; of the embedded base's own data 0.71 to 0.91 was seen.
ASSUMED_TOKENS = Range(0.7, 1.5)
# Where rate and launch overhead were measured: the four runs on an H200, whose own these were, lay within 25% of what is reckoned.
MEASURED_RANGE = Range(0.7, 1.4)


@dataclass(frozen=True)
class DataFacts:
    """The rows of a training file: how many, tokens of all of them and of the longest, and how those were counted."""

    rows: int
    tokens: int
    longest: int
    tag: Tag
    source: str


@dataclass(frozen=True)
class Cost:
    """Dollars of a run at one quoted price: over the range of the time, `quote` says who asks how much an hour, when, and where seen."""

    low_usd: float
    expected_usd: float
    high_usd: float
    quote: Quote


@dataclass(frozen=True)
class RunTime:
    """How long a run takes and what it costs at the cheapest and at the median quote; both None without a price.

    `usd` spans from the fastest run at the lowest quote to the slowest at the highest. `source` says what the range is made of.
    """

    seconds: Seconds
    steps: int
    tokens: int
    tokens_s: float
    usd: tuple[float, float] | None
    cheapest: Cost | None
    median: Cost | None
    source: str

    def chance(self, within_s: float) -> float:
        """Probability that the run ends within so many seconds."""
        return chance(self.seconds, within_s)

    def within(self, probability: float) -> float:
        """Seconds within which the run ends with this probability (0..1, both excluded)."""
        return limit(self.seconds, probability)


@dataclass(frozen=True)
class TrainingPlan:
    """One agent's run, alone on the card. `phases` say what each of its parts holds at most.

    `row_tokens` is the longest row that was reckoned with; `time` None without data."""

    agent: str
    model: str
    recipe: Recipe
    ledger: Ledger
    available_bytes: int
    row_tokens: int
    data: DataFacts | None
    time: RunTime | None
    advice: tuple[str, ...]
    phases: tuple[Phase, ...]

    @property
    def peak_bytes(self) -> int:
        return self.ledger.total_bytes

    @property
    def headroom_bytes(self) -> int:
        return self.available_bytes - self.peak_bytes

    @property
    def fits(self) -> bool:
        return self.headroom_bytes >= 0


def run_time(
    recipe: Recipe, shape: ModelShape, data: DataFacts, speed: SpeedFacts, price: Price | None, *, on_cpu: bool = False
) -> RunTime | None:
    """Hours and dollars. None where the card's compute rate is not known.

    A pass takes its operations (4 a weight and token, 2 more for layers that are recomputed) at the share of the card's rate that
    QLoRA reaches, or what the host needs to launch it, whichever is longer.
    """
    if speed.tflops is None:
        return None
    steps = recipe.max_steps or ceil(recipe.epochs * ceil(data.rows / recipe.batch.step_rows))
    passes, laid = passes_per_epoch(recipe, shape, data.rows, data.tokens)
    epochs = steps / max(ceil(data.rows / recipe.batch.step_rows), 1)
    again = recomputed_layers(recipe, shape) / shape.layers
    int8 = base_form(recipe, shape) == "int8"
    share = facts.TRAINING_SHARE_CPU if on_cpu else facts.TRAINING_SHARE_INT8 if int8 else facts.TRAINING_SHARE
    compute = laid * (4 + 2 * again) * shape.active_parameters / (share * speed.tflops * 1e12)
    bare, whole = (
        facts.TRAINING_FORWARDS_CPU if on_cpu else facts.TRAINING_FORWARDS_INT8 if int8 else facts.TRAINING_FORWARDS
    )
    launch = passes * (bare + again * (whole - bare)) * _forward_host_s(recipe, shape, speed, on_cpu)
    # A card computes while the host launches what comes next; a processor does one after the other.
    each_epoch = compute + launch if on_cpu else max(compute, launch)
    expected = each_epoch * epochs + steps * _optimizer_s(recipe, shape, on_cpu)
    factors, source = _factors(data, speed, compute / (compute + launch or 1.0), on_cpu)
    seconds = Seconds.around(expected, factors)
    tokens = round(data.tokens * epochs)
    return RunTime(
        seconds=seconds,
        steps=steps,
        tokens=tokens,
        tokens_s=round(tokens / expected, 1) if expected else 0.0,
        usd=_span(seconds, price),
        cheapest=_cost(seconds, quotes_by_price(price)[0]) if price else None,
        median=_cost(seconds, median_quote(price)) if price else None,
        source=source,
    )


def _optimizer_s(recipe: Recipe, shape: ModelShape, on_cpu: bool) -> float:
    """An 8-bit optimizer waits for the card after each of its tensors."""
    if on_cpu or recipe.optimizer.name == "adamw_torch":
        return 0.0
    return facts.OPTIMIZER_TENSOR_S * 2 * sum(linear.count for linear in shape.targeted(recipe.lora.targets))


def _factors(data: DataFacts, speed: SpeedFacts, computing: float, on_cpu: bool) -> tuple[Range, str]:
    """The range of a run's time: the model's own and, as far as `computing` (its share of the time) goes, that of assumed tokens."""
    factors = facts.TRAINING_RANGE_CPU if on_cpu else facts.TRAINING_RANGE
    if speed.tag == "measured" and not on_cpu:
        factors = MEASURED_RANGE
    source = f"operations at the share of the rate that QLoRA runs reached, and launches; {speed.source}"
    if data.tag != "assumed":
        return factors, source
    tokens = Range(ASSUMED_TOKENS.low**computing, ASSUMED_TOKENS.high**computing)
    return widened(factors, tokens), f"{source}; range widened, for tokens are assumed: {data.source}"


def _forward_host_s(recipe: Recipe, shape: ModelShape, speed: SpeedFacts, on_cpu: bool) -> float:
    """Seconds to launch one forward pass with the adapter."""
    asked = recipe.base_quantization
    spec = ModelSpec(id=shape.id, quantization=asked, engine="local")
    targeted = sum(linear.count for linear in shape.targeted(recipe.lora.targets))
    answering = Answering(spec, shape, speed, adapters=1, adapted=True, targeted_linears=targeted, on_cpu=on_cpu)
    return answering.forward_host_s()


def quotes_by_price(price: Price) -> list[Quote]:
    """The quotes, cheapest first."""
    return sorted(price.quotes, key=lambda quote: quote.usd_per_hour)


def median_quote(price: Price) -> Quote:
    """The quote in the middle, the lower of the two where their number is even: a price that somebody does ask."""
    quotes = quotes_by_price(price)
    return quotes[(len(quotes) - 1) // 2]


def _cost(seconds: Seconds, quote: Quote) -> Cost:
    low, expected, high = (s / 3600 * quote.usd_per_hour for s in (seconds.low, seconds.expected, seconds.high))
    return Cost(low, expected, high, quote)


def _span(seconds: Seconds, price: Price | None) -> tuple[float, float] | None:
    if price is None:
        return None
    return price.low_usd_per_hour * seconds.low / 3600, price.high_usd_per_hour * seconds.high / 3600


def training_plan(
    agent: str,
    model: str,
    recipe: Recipe,
    shape: ModelShape,
    data: DataFacts | None,
    speed: SpeedFacts,
    price: Price | None,
    available_bytes: int,
    *,
    on_cpu: bool = False,
    context: Taken | None = None,
    advised: bool = True,
) -> TrainingPlan:
    """One agent's run, alone on the card. `advised`: with what to change where it does not fit."""
    longest = min(data.longest, recipe.max_length) if data else recipe.max_length
    recipe = settled(recipe, shape, longest, available_bytes, on_cpu=on_cpu)
    peak = training_ledger(agent, recipe, shape, longest, on_cpu=on_cpu, context=context)
    too_large = advised and peak.total_bytes > available_bytes
    return TrainingPlan(
        agent=agent,
        model=model,
        recipe=recipe,
        ledger=peak,
        available_bytes=available_bytes,
        row_tokens=longest,
        data=data,
        time=run_time(recipe, shape, data, speed, price, on_cpu=on_cpu) if data else None,
        advice=training_advice(agent, recipe, shape, longest, available_bytes, on_cpu=on_cpu) if too_large else (),
        phases=training_phases(agent, recipe, shape, longest, on_cpu=on_cpu, context=context),
    )


def training_advice(
    agent: str, recipe: Recipe, shape: ModelShape, row_tokens: int, available: int, *, on_cpu: bool = False
) -> tuple[str, ...]:
    """Changes of the recipe that, taken together, make the run fit, those that cost least first; the last line says if none do."""
    changed: Recipe = recipe
    taken: dict[str, str] = {}
    for key, value, text in _smaller(recipe, row_tokens):
        changed = changed.model_copy(update={key: value})
        taken[key] = text
        rows = min(row_tokens, changed.max_length)
        if training_ledger(agent, changed, shape, rows, on_cpu=on_cpu).total_bytes <= available:
            return tuple(taken.values())
    return (*taken.values(), "even then it does not fit: take a smaller base or a larger card")


def _smaller(recipe: Recipe, row_tokens: int) -> Iterator[tuple[str, Any, str]]:
    """(key, value, text) of changes: recomputation, smaller passes, 8-bit state, a 4-bit base, shorter rows."""
    if recipe.gradient_checkpointing is not True:
        yield "gradient_checkpointing", True, "gradient_checkpointing: true (about 30% slower)"
    batch = recipe.batch
    tokens = batch.forward_tokens
    while batch.packing and tokens > max(row_tokens, 512):
        tokens = max(tokens // 2, row_tokens, 512)
        yield (
            "batch",
            batch.model_copy(update={"forward_tokens": tokens}),
            f"batch: {{forward_tokens: {tokens}}} (the same steps)",
        )
    rows, accumulate = batch.rows, batch.accumulate
    while not batch.packing and rows > 1:
        rows, accumulate = rows // 2, accumulate * 2
        smaller = batch.model_copy(update={"rows": rows, "accumulate": accumulate})
        yield "batch", smaller, f"batch: {{rows: {rows}, accumulate: {accumulate}}}"
    if recipe.optimizer.name == "adamw_torch":
        optimizer = recipe.optimizer.model_copy(update={"name": "adamw_8bit"})
        yield "optimizer", optimizer, "optimizer: {name: adamw_8bit}"
    if recipe.base_quantization != "nf4":
        yield "base_quantization", "nf4", "base_quantization: nf4 (serve it in nf4 too)"
    length = row_tokens
    while length > 256:
        length //= 2
        yield "max_length", length, f"max_length: {length}, and longer rows made shorter"
