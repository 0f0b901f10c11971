"""A plan as plain data, for `--json`, result files and whoever compares it with measurements."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from onecard.planner.chance import HIGH_QUANTILE, LOW_QUANTILE, SURE, UNLIKELY
from onecard.planner.ledger import TAGS
from onecard.planner.plan import Plan
from onecard.planner.training_run import RunTime, median_quote, quotes_by_price

SCHEMA = 1

# What the figures of every range and probability in the record mean.
CHANCES = {
    "low_is_quantile": LOW_QUANTILE,
    "high_is_quantile": HIGH_QUANTILE,
    "meets_from_probability": SURE,
    "misses_to_probability": UNLIKELY,
    "range": "how wrong the prediction may be: low, expected and high are quantiles of a lognormal with a spread on either side",
    "busy": "time within which the percentile of the agent's requests are answered, all callers of the model asking, its agents in "
    "equal parts, each caller sending its next request when the last is answered",
    "probability": "that `busy` is within the deadline, over the range",
}
FINISH_BY = (0.5, 0.8, 0.95)  # probabilities a run's end is given for


def plan_record(plan: Plan) -> dict[str, Any]:
    """Everything in the plan, JSON-ready. Sizes in bytes, times in seconds, prices in US dollars; units stand in the names."""
    card = plan.card
    return {
        "schema": SCHEMA,
        "fleet": plan.fleet.name,
        "card": {
            "id": card.id,
            "name": card.name,
            "total_bytes": card.total_bytes,
            "memory_basis": card.memory_basis,
            "bandwidth_gbs": card.bandwidth_gbs,
            "tflops": card.tflops,
        },
        "speed_facts": _data(plan.speed),
        "fits": plan.fits,
        "serving_fits": plan.serving_fits,
        "tight": plan.tight,
        "available_bytes": plan.available_bytes,
        "reserve_bytes": plan.reserve_bytes,
        "need_bytes": plan.need_bytes,
        "headroom_bytes": plan.headroom_bytes,
        "bytes_by_tag": {tag: plan.serving.bytes_tagged(tag) for tag in TAGS},
        "ledger": _data(plan.serving.lines),
        "models": _data(plan.limits),
        "chances": CHANCES,
        "price": _price(plan),
        "agents": [{**_data(agent), "margin_s": agent.margin_s, "because": agent.because} for agent in plan.agents],
        "trainings": [
            {
                **_data(training),
                "time": _time(training.time),
                "peak_bytes": training.peak_bytes,
                "headroom_bytes": training.headroom_bytes,
                "fits": training.fits,
            }
            for training in plan.trainings
        ],
        "advice": [{key: value for key, value in _data(advice).items() if key != "fleet"} for advice in plan.advice],
        "faster": _data(plan.faster),
        "smallest_need_bytes": plan.smallest_need_bytes,
        "warnings": list(plan.warnings),
    }


def _price(plan: Plan) -> dict[str, Any] | None:
    """The cheapest and the median quote of an hour, each with provider, date and source; None where nobody rents the card out."""
    if plan.price is None:
        return None
    cheapest = quotes_by_price(plan.price)[0]
    return {"cheapest": _data(cheapest), "median": _data(median_quote(plan.price)), "quotes": len(plan.price.quotes)}


def _time(time: RunTime | None) -> dict[str, Any] | None:
    """A run's time with the seconds by which it has ended with a probability of 50, 80 and 95%."""
    if time is None:
        return None
    by = [{"probability": probability, "seconds": time.within(probability)} for probability in FINISH_BY]
    return {**_data(time), "finish_by": by}


def _data(value: Any) -> Any:
    """Dataclasses and pydantic records as dicts, tuples as lists, at every depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _data(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_data(part) for part in value]
    return value
