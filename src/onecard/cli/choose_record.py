"""A choice as plain data, for `--json`: every option with every figure, its source, the claims about it and what was measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from onecard.cli.choose_evidence import COLUMNS, Evidence
from onecard.cli.claims_output import record as claim_record
from onecard.fleet.loader import LoadedFleet
from onecard.planner.choice import LEAST_CHANCE, PROXY, Choice, Excluded, Failure, Limits, cost_of, decided_by
from onecard.planner.option import Option, Place
from onecard.planner.record import CHANCES
from onecard.planner.training_run import TrainingPlan

SCHEMA = 1


def record_of(choice: Choice, place: Place, limits: Limits, evidence: Evidence, loaded: LoadedFleet) -> dict[str, Any]:
    """Sizes in bytes, times in seconds, prices in US dollars; units stand in the names."""

    def told(option: Option) -> dict[str, Any]:
        claims = [
            {"column": COLUMNS.get(row.claim.quantity), **claim_record(row)}
            for row in evidence.about(option, place, loaded.file.stem)
        ]
        return {**_option(option), "claims": claims}

    ranked = [
        {**told(option), "rank": number + 1, "dominated_by_rank": _one_more(choice.dominated.get(number))}
        for number, option in enumerate(choice.ranked)
    ]
    miss, best = choice.nearest_miss, choice.chosen
    second = choice.ranked[1] if len(choice.ranked) > 1 else None
    return {
        "schema": SCHEMA,
        "fleet": place.fleet.name,
        "agent": place.agent,
        "model_key": place.key,
        "moves_with_it": list(place.moving[1:]),
        "card": {"id": place.card.id, "name": place.card.name, "available_bytes": place.available_bytes},
        "speed_facts": asdict(place.speed),
        "limits": {
            "least_chance": limits.least_chance,
            "least_chance_why": "expected to be in time" if limits.least_chance == LEAST_CHANCE else "asked for",
            "licence": limits.licence,
            "context": limits.context or loaded.fleet.models[place.key].context,
            "disk_bytes": limits.disk_bytes,
            "gated_allowed": limits.gated,
            "images": place.images,
        },
        "prefer": list(choice.order),
        "quality": "measured: mean overlap with the suite's references" if choice.measured_quality else PROXY,
        "chances": CHANCES,
        "chosen": None if best is None else {"model": best.id, "quantization": best.quantization},
        "beat_the_next_by": decided_by(choice, best, second) if best and second else None,
        "nearest_miss": None if miss is None else _excluded(miss),
        "ranked": ranked,
        "out": [{**told(out.option), "failures": [_failure(f) for f in out.failures]} for out in choice.out],
    }


def _option(option: Option) -> dict[str, Any]:
    facts, speed, cost = option.candidate.facts, option.speed, cost_of(option)
    return {
        "model": option.id,
        "quantization": option.quantization,
        "form": option.form,
        "engine": option.engine,
        "refused": option.refused,
        "parameters": option.parameters,
        "bits_a_weight": option.bits,
        "memory": None
        if option.ledger is None
        else {
            "own_bytes": option.own_bytes,
            "need_bytes": option.need_bytes,
            "headroom_bytes": option.headroom_bytes,
            "tight": option.tight,
            "ledger": [asdict(line) for line in option.ledger.lines],
        },
        "largest_context": option.largest_context,
        "model_context": option.reach,
        "speeds": [{**asdict(one), "margin_s": one.margin_s, "because": one.because} for one in option.speeds],
        "speed_source": speed.source if speed else None,
        "trainings": [_training(run) for run in option.trainings],
        "cost": None if cost is None else {"figure": cost[0], "unit": cost[1]},
        "licence": {
            "key": facts.licence,
            "fully_open": facts.fully_open,
            "commercial": facts.commercial,
            "reason": facts.licence_reason,
            "source": facts.licence_source,
        },
        "gated": {"gated": facts.gated, "source": facts.gate_source},
        "download": {**asdict(option.download), "caution": facts.disk_caution},
        "measured": {column: seen.model_dump(mode="json") for column, seen in option.measured.items()},
        "notes": list(option.notes),
    }


def _training(run: TrainingPlan) -> dict[str, Any]:
    time = run.time
    return {
        "agent": run.agent,
        "recipe": run.recipe.name,
        "base_quantization": run.recipe.base_quantization,
        "targets": run.recipe.lora.targets,
        "row_tokens": run.row_tokens,
        "peak_bytes": run.peak_bytes,
        "headroom_bytes": run.headroom_bytes,
        "data": None if run.data is None else asdict(run.data),
        "seconds": None if time is None else asdict(time.seconds),
        "usd_at_median_quote": None
        if time is None or time.median is None
        else {
            "low": time.median.low_usd,
            "expected": time.median.expected_usd,
            "high": time.median.high_usd,
            "quote": time.median.quote.model_dump(mode="json"),
        },
        "source": None if time is None else time.source,
    }


def _excluded(out: Excluded) -> dict[str, Any]:
    return {
        "model": out.option.id,
        "quantization": out.option.quantization,
        "failures": [_failure(failure) for failure in out.failures],
    }


def _failure(failure: Failure) -> dict[str, Any]:
    """`share` null: no figure mends it."""
    share = None if failure.share == float("inf") else failure.share
    return {"limit": failure.limit, "what": failure.what, "over_by_share": share, "gives": failure.gives}


def _one_more(number: int | None) -> int | None:
    return None if number is None else number + 1
