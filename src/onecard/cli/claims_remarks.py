"""What a verdict alone does not say: which other form explains a claimed figure, and what a figure means where its terms are unsaid.

Each remark is planned when it is asked for, so none can outlive the planner's constants.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onecard.catalog.models import find_model
from onecard.catalog.units import GIB
from onecard.cli.claims_predictions import Prediction, predict
from onecard.cli.claims_subjects import LEAST_CONTEXT, held, memory_range, planned, shape_said, speed_of, training_of
from onecard.errors import OnecardError
from onecard.evidence.claims import Claim, Judgement, verdict

FORMS = {"none": "16 bits", "int8": "int8", "nf4": "nf4"}
LONG_RUN = 1000  # rows of a run whose speed is asked for, enough that its length does not matter


def remark(claim: Claim, prediction: Prediction, judgement: Judgement, folder: Path) -> str | None:
    """One sentence beside the verdict, or None."""
    try:
        return _remark(claim, prediction, judgement, folder)
    except OnecardError:
        return None  # what cannot be planned gives no remark; the verdict says why already


def _remark(claim: Claim, prediction: Prediction, judgement: Judgement, folder: Path) -> str | None:
    predicted, subject = prediction.predicted, claim.subject
    if claim.quantity == "memory_gib" and predicted is not None and subject.fleet is None:
        if judgement.verdict == "refuted" and predicted.high is not None:
            return _other_form(claim, folder)
        if judgement.verdict == "unknown" and predicted.high is None:
            return _tokens_held(claim, folder)
    if claim.quantity == "training_memory_gib" and judgement.verdict != "confirmed" and subject.fleet is None:
        return _rows_held(claim, folder)
    if predicted is None and subject.fleet is None and subject.card is not None and subject.model is not None:
        if claim.quantity in ("latency_s", "p50_ms") and not shape_said(subject) and (subject.callers or 1) == 1:
            return _tokens_in(claim, folder)
        if claim.quantity == "training_hours" and subject.rows is None and subject.recipe is not None:
            return _tokens_trained(claim, folder)
    return None


def _other_form(claim: Claim, folder: Path) -> str | None:
    """The form whose prediction is what was claimed."""
    for form, name in FORMS.items():
        other = claim.model_copy(update={"subject": claim.subject.model_copy(update={"quantization": form})})
        predicted = predict(other, folder).predicted
        if form == claim.subject.quantization or predicted is None or predicted.low is None or predicted.high is None:
            continue
        if verdict(other, predicted, None).verdict == "confirmed":
            said = f"{predicted.low:.1f} to {predicted.high:.1f} GiB"
            return f"held in {name} it would take {said}: the claimed figure is of that form"
    return None


def _tokens_held(claim: Claim, folder: Path) -> str | None:
    """The context at which one caller makes the model take what is claimed."""
    subject, limit = claim.subject, claim.bounds[1]
    longest = find_model(str(subject.model)).max_context

    def fits(tokens: int) -> bool:
        return held(subject, folder, context=tokens).total_bytes <= limit * GIB

    tokens = _largest(LEAST_CONTEXT, longest, fits)
    if tokens is None:
        return None
    if tokens == longest:
        return f"even one caller of its longest context, {longest:,} tokens, takes less"
    return f"one caller of about {_round(tokens):,} tokens takes as much"


def _rows_held(claim: Claim, folder: Path) -> str | None:
    """How long rows may be for the run to keep to the claim, and in which form."""
    subject, limit = claim.subject, claim.bounds[1]
    longest = training_of(planned(subject, folder), subject).recipe.max_length

    def fits(tokens: int) -> bool:
        made = planned(subject, folder, rows=LONG_RUN, row_tokens=tokens)
        return memory_range(training_of(made, subject).ledger)[2] <= limit

    tokens = _largest(16, longest, fits)
    return None if tokens is None else f"it keeps to the claim with rows of up to about {_round(tokens):,} tokens"


def _tokens_in(claim: Claim, folder: Path) -> str | None:
    """How many tokens the claimed time of one caller is."""
    subject = claim.subject
    agent = speed_of(planned(subject, folder, prompt_tokens=128, new_tokens=8), subject)
    if agent.itl is None:
        return None
    least, most = agent.itl.low, agent.itl.high
    seconds = claim.bounds[1] / (1000 if claim.quantity == "p50_ms" else 1)
    fewest, largest = int(seconds / most), int(seconds / least)
    a_token = f"a token takes {least * 1000:.0f} to {most * 1000:.0f} ms by the plan"
    if largest < 1:
        return f"{a_token}, so it is less than one"
    count = f"{largest}" if fewest == largest else f"{fewest} to {largest}" if fewest else f"at most {largest}"
    return f"{a_token}, so it is {count} of them"


def _tokens_trained(claim: Claim, folder: Path) -> str | None:
    """How many tokens could be trained in the claimed time."""
    subject = claim.subject
    run = training_of(planned(subject, folder, rows=LONG_RUN), subject)
    if run.time is None:
        return None
    rates = run.time.tokens / run.time.seconds.high, run.time.tokens / run.time.seconds.low
    tokens = [bound * 3600 * rate / 1e6 for bound, rate in zip(claim.bounds, rates, strict=True)]
    return (
        f"at {_round(rates[0]):,} to {_round(rates[1]):,} tokens a second by the plan, with rows of "
        f"{run.row_tokens:,}, that would train {_round(tokens[0]):,} to {_round(tokens[1]):,} million tokens"
    )


def _largest(least: int, most: int, holds: Callable[[int], bool]) -> int | None:
    """The largest number for which `holds`, by halving; None when not even the least does."""
    if not holds(least):
        return None
    if holds(most):
        return most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if holds(middle) else (least, middle)
    return least


def _round(value: float) -> int:
    """Two figures that count: 8,934 is 8,900."""
    scale = 10 ** max(len(str(int(value))) - 2, 0)
    return int(round(value / scale) * scale)
