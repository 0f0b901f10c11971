"""What somebody claims of a model, a card or a run, and what becomes of it: confirmed, refuted or unknown.

A verdict is never stored for a figure: it follows by rule from what was measured or predicted when it is asked for, so it moves with the
evidence. Pure: whoever calls has planned and measured, and hands the figures over. Files are read in claims_file.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from onecard.catalog.quantization import Quantization
from onecard.errors import nearest

Verdict = Literal["confirmed", "refuted", "unknown"]
Comparison = Literal["is", "about", "at_most", "at_least", "range"]
Quantity = Literal[
    "memory_gib", "weights_gib", "headroom_gib", "training_memory_gib", "latency_s", "p50_ms", "growth", "tokens_s",
    "training_hours", "training_usd", "context_tokens", "fits", "exists", "quantizes", "fully_open", "licence", "quality",
]  # fmt: skip
Tag = Literal["exact", "measured", "fitted", "assumed"]
Number = Annotated[StrictInt | StrictFloat, Field(ge=0)]
Value = StrictBool | Number | tuple[Number, Number] | StrictStr

ABOUT = 0.10  # "about 15 GB" is 13.5 to 16.5
REPEATED = 0.05  # two honest measurements of one thing may differ by so much

# A GB is 10^9 or 2^30 bytes, and people who write it seldom say: both readings count, so a claim is given the kinder one.
_BYTES: dict[str, tuple[float, float]] = {"GiB": (1, 1), "GB": (10**9 / 2**30, 1), "MiB": (1 / 1024, 1 / 1024)}
_SECONDS: dict[str, tuple[float, float]] = {"s": (1, 1), "ms": (1e-3, 1e-3), "min": (60, 60), "h": (3600, 3600)}


@dataclass(frozen=True)
class Measure:
    """What a quantity is. `units`: (low, high) factor to the quantity's own unit, which comes first; none for yes, no and words."""

    words: str
    kind: Literal["number", "yes or no", "words"]
    units: Mapping[str, tuple[float, float]]

    @property
    def unit(self) -> str:
        return next(iter(self.units), "")


def _over(seconds: float, first: str) -> dict[str, tuple[float, float]]:
    """The units of time as factors to one of `seconds` seconds, that one first."""
    factors = {unit: (low / seconds, high / seconds) for unit, (low, high) in _SECONDS.items()}
    return {first: factors[first], **factors}


QUANTITIES: dict[Quantity, Measure] = {
    "memory_gib": Measure("memory of the card while it answers", "number", _BYTES),
    "weights_gib": Measure("memory of the weights alone", "number", _BYTES),
    "headroom_gib": Measure("memory left on the card", "number", _BYTES),
    "training_memory_gib": Measure("peak memory of a training run", "number", _BYTES),
    "latency_s": Measure("time of a whole answer", "number", _over(1, "s")),
    "p50_ms": Measure("median time of a whole answer", "number", _over(1e-3, "ms")),
    "growth": Measure("median time with all callers, over that of one", "number", {"x": (1, 1)}),
    "tokens_s": Measure("new tokens a second, all callers together", "number", {"tokens/s": (1, 1)}),
    "training_hours": Measure("time of a training run", "number", _over(3600, "h")),
    "training_usd": Measure("what the runs cost", "number", {"USD": (1, 1)}),
    "context_tokens": Measure("longest context", "number", {"tokens": (1, 1)}),
    "fits": Measure("whether it fits the card", "yes or no", {}),
    "exists": Measure("whether there is such a repository", "yes or no", {}),
    "quantizes": Measure("whether loading in this form converts anything", "yes or no", {}),
    "fully_open": Measure("whether the licence is approved by the Open Source Initiative", "yes or no", {}),
    "licence": Measure("key of the licence", "words", {}),
    "quality": Measure("how good the answers are", "words", {}),
}


class Record(BaseModel):
    """Frozen; unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Subject(Record):
    """What a claim is about. A key left out was not said: a figure that needs it cannot be predicted."""

    model: str | None = Field(None, description="Hub id of the model.")
    quantization: Quantization | None = Field(None, description="How its weights are held; left out: as published.")
    checkpoint: str | None = Field(None, description="exists only: a repository that holds the model in this scheme.")
    card: str | None = Field(None, description="Id of a card in the catalog.")
    engine: Literal["auto", "local", "vllm"] = "auto"
    context: int | None = Field(None, ge=16, description="Prompt plus answer at most, tokens.")
    callers: int | None = Field(None, ge=1, description="Requests at once.")
    prompt_tokens: int | None = Field(None, ge=1)
    new_tokens: int | None = Field(None, ge=1)
    recipe: str | None = Field(None, description="Name of a shipped recipe, or a file: how its adapter is trained.")
    rows: int | None = Field(None, ge=1, description="Training rows.")
    row_tokens: int | None = Field(None, ge=1, description="Tokens of a training row; left out: the recipe's longest.")
    epochs: tuple[float, float] | None = Field(None, description="Least and most passes over the rows.")
    hours: tuple[float, float] | None = Field(None, description="Hours of one run as the same source says.")
    runs: int = Field(1, ge=1, description="How many such runs.")
    fleet: str | None = Field(None, description="Example fleet that stands for the deployment, or a fleet file.")
    agent: str | None = Field(None, description="The agent of that fleet.")


class Where(Record):
    """Where the claim stands: a document of the project's five with its row, or any source."""

    document: str | None = Field(None, pattern=r"^[A-Z]$")
    row: str | None = None
    source: str | None = Field(None, description="A link, a paper, a person.")

    @property
    def short(self) -> str:
        return self.row or self.document or self.source or "-"


class Measured(Record):
    """Something measured: the value in the quantity's own unit. `decides` false: of something else, so it is shown and no more."""

    value: StrictBool | Number
    machine: str
    date: str
    record: str = Field(description="The file or the page where the measurement stands.")
    decides: bool = True
    note: str | None = None


class Reasoned(Record):
    """A verdict on what is no figure: the sentence it follows from, and the source of that."""

    verdict: Verdict
    why: str
    source: str


class Claim(Record):
    """One claim. `unit` is the one it was made in; `note` says what had to be taken for granted to check it."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    statement: str = Field(min_length=1, description="The claim as a sentence.")
    subject: Subject = Subject()
    quantity: Quantity
    comparison: Comparison = "is"
    value: Value
    unit: str | None = None
    who: str
    where: Where = Where()
    date: str | None = None
    note: str | None = None
    measured: tuple[Measured, ...] = ()
    reasoned: Reasoned | None = None

    @model_validator(mode="after")
    def _value_is_of_its_quantity(self) -> Claim:
        measure = QUANTITIES[self.quantity]
        wanted = {"number": (int, float, tuple), "yes or no": (bool,), "words": (str,)}[measure.kind]
        if not isinstance(self.value, wanted) or (measure.kind == "number" and isinstance(self.value, bool)):
            raise _wrong("value", f"{self.quantity} is a {measure.kind}, not {self.value!r}")
        if measure.kind != "number":
            if self.unit is not None or self.comparison != "is":
                raise _wrong("comparison", f"{self.quantity} is a {measure.kind}: it has no unit, and it only `is`")
            return self
        if self.unit is None or self.unit not in measure.units:
            known = ", ".join(measure.units)
            raise _wrong(
                "unit", f"'{self.unit}' is no unit of {self.quantity}{_near(self.unit, measure)}, known: {known}"
            )
        if isinstance(self.value, tuple) != (self.comparison == "range"):
            raise _wrong("value", "a range has two numbers, and every other comparison has one")
        if isinstance(self.value, tuple) and self.value[0] > self.value[1]:
            raise _wrong("value", f"the range runs backwards: {self.value[0]:g} to {self.value[1]:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """What the claim allows, in its quantity's own unit; infinite where it says nothing. Figures only."""
        value = self.value
        if isinstance(value, str | bool):
            raise ValueError(f"{self.quantity} is no figure")
        low, high = value if isinstance(value, tuple) else (value, value)
        smaller, larger = QUANTITIES[self.quantity].units[str(self.unit)]
        low, high = low * smaller, high * larger
        if self.comparison == "about":
            low, high = low * (1 - ABOUT), high * (1 + ABOUT)
        return (-math.inf if self.comparison == "at_most" else low, math.inf if self.comparison == "at_least" else high)


@dataclass(frozen=True)
class Predicted:
    """What the planner or the catalog says: a range in the quantity's own unit, or an answer to what is no figure.

    `high` and `expected` None: only a least value follows, because the claim leaves out what more there is. `tag` is that of the least
    sure part; `by` says in a sentence what was planned or looked up.
    """

    by: str
    tag: Tag
    low: float | None = None
    expected: float | None = None
    high: float | None = None
    answer: bool | str | None = None


@dataclass(frozen=True)
class Judgement:
    """A verdict, which evidence it follows from, and the rule in a sentence."""

    verdict: Verdict
    by: Literal["measured", "predicted", "reasoned", "nothing"]
    why: str


def verdict(
    claim: Claim, predicted: Predicted | None, measured: Measured | None, *, missing: str | None = None
) -> Judgement:
    """What becomes of a claim. A measurement of the same thing decides, then a prediction, then reasons; else it is unknown.

    `missing` says why there is no prediction.
    """
    if measured is not None and measured.decides:
        return _by_measurement(claim, measured)
    judged = None if predicted is None else _by_prediction(claim, predicted)
    if judged is not None and judged.verdict != "unknown":
        return judged
    if claim.reasoned is not None:
        return Judgement(claim.reasoned.verdict, "reasoned", claim.reasoned.why)
    return judged or Judgement("unknown", "nothing", missing or "nothing was measured, and nothing can be predicted")


def deciding(claim: Claim, more: Iterable[Measured] = ()) -> Measured | None:
    """The measurement to judge by: the last that decides, else the last to show."""
    known = [*claim.measured, *more]
    return next((m for m in reversed(known) if m.decides), known[-1] if known else None)


def claims_about(
    claims: Iterable[Claim],
    *,
    model: str | None = None,
    card: str | None = None,
    quantity: Quantity | None = None,
    quantization: Quantization | None = None,
    document: str | None = None,
) -> list[Claim]:
    """Claims that pass every filter given. A claim that names no card or form holds for all of them.

    `model` is a hub id, or a part of one without its owner ("phi-4"); case does not matter.
    """

    def holds(claim: Claim) -> bool:
        subject, asked = claim.subject, (model or "").lower()
        named = (subject.model or "").lower()
        return (
            (model is None or (named == asked if "/" in asked else asked in named))
            and (card is None or subject.card in (None, card))
            and (quantity is None or claim.quantity == quantity)
            and (quantization is None or subject.quantization in (None, quantization))
            and (document is None or claim.where.document == document)
        )

    return [claim for claim in claims if holds(claim)]


def _by_measurement(claim: Claim, measured: Measured) -> Judgement:
    if isinstance(measured.value, bool) or not _is_figure(claim):
        same = measured.value == claim.value
        return Judgement("confirmed" if same else "refuted", "measured", "it was tried")
    low, high = claim.bounds
    if claim.comparison not in ("at_most", "at_least"):
        low, high = low * (1 - REPEATED), high * (1 + REPEATED)
    if low <= measured.value <= high:
        return Judgement("confirmed", "measured", "what was measured is what was claimed")
    return Judgement("refuted", "measured", "what was measured is not what was claimed")


def _by_prediction(claim: Claim, predicted: Predicted) -> Judgement:
    if not _is_figure(claim):
        same = str(predicted.answer).casefold() == str(claim.value).casefold()
        return Judgement("confirmed" if same else "refuted", "predicted", predicted.by)
    low, high = claim.bounds
    least, most = predicted.low or 0.0, math.inf if predicted.high is None else predicted.high
    if least > high or most < low:
        side = "above" if least > high else "below"
        return Judgement("refuted", "predicted", f"all of the predicted range lies {side} the claim")
    if low <= least and most <= high:
        return Judgement("confirmed", "predicted", "all of the predicted range keeps to the claim")
    if claim.comparison in ("at_most", "at_least"):
        return Judgement("unknown", "predicted", "the predicted range lies on both sides of the limit")
    if predicted.high is None:
        return Judgement(
            "unknown", "predicted", "only the least value follows from what is said; the claim is above it"
        )
    inside = least <= low and high <= most
    expected = predicted.expected is not None and low <= predicted.expected <= high
    if inside or expected or claim.comparison != "range":
        return Judgement("confirmed", "predicted", "the claim lies in the predicted range")
    return Judgement("unknown", "predicted", "the claimed and the predicted range overlap only in part")


def _is_figure(claim: Claim) -> bool:
    return QUANTITIES[claim.quantity].kind == "number"


def _near(unit: str | None, measure: Measure) -> str:
    return nearest(unit, list(measure.units)) if unit else ""


def _wrong(key: str, problem: str) -> PydanticCustomError:
    return PydanticCustomError("claim", "{problem}", {"problem": problem, "key": key})
