"""One training run: whether it fits, how long it takes, what it costs, and what to change if it does not fit.

Time is reckoned from the operations of the recipe at the share of the card's rate that QLoRA runs reached, and from what the host
needs to launch them; small batches are ruled by the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from onecard.catalog.cards import Price
from onecard.fleet.recipe import Recipe
from onecard.planner import engine_facts as facts
from onecard.planner.ledger import Ledger, Tag
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import Seconds, SpeedFacts
from onecard.planner.training import base_form, training_ledger


@dataclass(frozen=True)
class DataFacts:
    """The rows of a training file: how many, tokens of all of them and of the longest, and how those were counted."""

    rows: int
    tokens: int
    longest: int
    tag: Tag
    source: str


@dataclass(frozen=True)
class RunTime:
    """How long a run takes. `usd` is (low, high) over the card's prices and the time's range, None without a price."""

    seconds: Seconds
    steps: int
    tokens: int
    tokens_s: float
    usd: tuple[float, float] | None


@dataclass(frozen=True)
class TrainingPlan:
    """One agent's run, alone on the card. `row_tokens` is the longest row that was reckoned with; `time` None without data."""

    agent: str
    model: str
    recipe: Recipe
    ledger: Ledger
    available_bytes: int
    row_tokens: int
    data: DataFacts | None
    time: RunTime | None
    advice: tuple[str, ...]

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

    A batch takes its operations (4 a weight and token, 6 with recomputation) at the share of the card's rate that QLoRA reaches,
    and what the host needs to launch forward, recomputation and backward.
    """
    if speed.tflops is None:
        return None
    each_epoch = ceil(data.rows / recipe.batch.rows)
    steps = recipe.max_steps or ceil(recipe.epochs * ceil(each_epoch / recipe.batch.accumulate))
    batches = recipe.max_steps * recipe.batch.accumulate if recipe.max_steps else recipe.epochs * each_epoch
    rows = min(recipe.batch.rows, data.rows)
    batch_tokens = rows * data.tokens / max(data.rows, 1)
    padded = batch_tokens * (facts.PADDING if rows > 1 else 1)
    passes = 6 if recipe.gradient_checkpointing else 4
    share = facts.TRAINING_SHARE_CPU if on_cpu else facts.TRAINING_SHARE
    compute = padded * passes * shape.active_parameters / (share * speed.tflops * 1e12)
    launched = _operators(recipe, shape) * (4 if recipe.gradient_checkpointing else 3)
    expected = (compute + launched * facts.TRAINING_OPERATOR_FACTOR * speed.overhead_us * 1e-6) * batches
    seconds = Seconds.around(expected, facts.TRAINING_RANGE_CPU if on_cpu else facts.TRAINING_RANGE)
    tokens = round(batch_tokens * batches)
    return RunTime(seconds, steps, tokens, round(tokens / expected, 1), _dollars(seconds, price))


def _operators(recipe: Recipe, shape: ModelShape) -> float:
    """Operators of one forward pass with an adapter."""
    form = base_form(recipe, shape)
    linears = facts.LINEAR_OPERATORS.get(form, 1) * shape.linear_count
    adapted = sum(s.count for s in shape.targeted(recipe.lora.targets)) * (7 if recipe.lora.dropout else 6)
    return facts.LAYER_OPERATORS * shape.layers + linears + adapted + facts.OTHER_OPERATORS


def _dollars(seconds: Seconds, price: Price | None) -> tuple[float, float] | None:
    if price is None:
        return None
    return price.low_usd_per_hour * seconds.low / 3600, price.high_usd_per_hour * seconds.high / 3600


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
    """(key, value, text) of changes: recomputation, fewer rows at once, 8-bit state, a 4-bit base, shorter rows."""
    if not recipe.gradient_checkpointing:
        yield "gradient_checkpointing", True, "gradient_checkpointing: true (about 30% slower)"
    rows, accumulate = recipe.batch.rows, recipe.batch.accumulate
    while rows > 1:
        rows, accumulate = rows // 2, accumulate * 2
        batch = recipe.batch.model_copy(update={"rows": rows, "accumulate": accumulate})
        yield "batch", batch, f"batch: {{rows: {rows}, accumulate: {accumulate}}}"
    if recipe.optimizer.name == "adamw_torch":
        optimizer = recipe.optimizer.model_copy(update={"name": "adamw_8bit"})
        yield "optimizer", optimizer, "optimizer: {name: adamw_8bit}"
    if recipe.base_quantization != "nf4":
        yield "base_quantization", "nf4", "base_quantization: nf4 (serve it in nf4 too)"
    length = row_tokens
    while length > 256:
        length //= 2
        yield "max_length", length, f"max_length: {length}, and longer rows made shorter"
