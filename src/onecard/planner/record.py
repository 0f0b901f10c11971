"""A plan as plain data, for `--json`, result files and whoever compares it with measurements."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from onecard.planner.ledger import TAGS
from onecard.planner.plan import Plan

SCHEMA = 1


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
        "agents": [{**_data(agent), "margin_s": agent.margin_s} for agent in plan.agents],
        "trainings": [
            {
                **_data(training),
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
