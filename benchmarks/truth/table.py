"""Measured runs beside what the planner says of the same cases today: errors by case and in sum, as a page of Markdown.

The measurements are kept whole enough to be compared again whenever a constant of the planner moves; predictions are never stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from onecard.catalog.cards import find_card
from onecard.catalog.models import find_model
from onecard.catalog.units import GIB
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Fleet
from onecard.planner.memory import serving_ledger
from onecard.planner.requests import answering_of
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model
from onecard.planner.speed import SpeedFacts, cold_start
from onecard.planner.training import training_ledger
from onecard.planner.training_run import DataFacts, run_time

CARD = "h200"
TARGETS = {
    "weights": "within 0.5%",
    "serving peak": "within 3% cold",
    "training peak": "5% median, 10% worst",
    "decode step": "within 10% cold, 5% calibrated",
    "prefill": "within 15%",
    "training batch": "no target was set",
}


@dataclass(frozen=True)
class Compared:
    """One figure of one case. `unit` is GiB or ms."""

    what: str
    case: str
    predicted: float
    measured: float
    unit: str

    @property
    def error(self) -> float:
        """Signed, as a share of what was measured."""
        return self.predicted / self.measured - 1


def shape(model_id: str) -> ModelShape:
    """The shape that was run: of models that also take images, the language model alone."""
    model = find_model(model_id)
    if isinstance(model.config.get("text_config"), dict):
        return shape_of_config(
            model_id, {"model_type": f"{model.config['model_type']}_text", **model.config["text_config"]}
        )
    return shape_of_model(model)


def compact(document: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run: case, sizes, peaks and times; not where it lay on the disk, nor every pass."""
    runs = []
    for run in document["runs"]:
        if run.get("problem"):
            runs.append({"spec": _spec(run["spec"]), "problem": run["problem"][-200:]})
            continue
        kept: dict[str, Any] = {"spec": _spec(run["spec"])}
        kept |= {
            key: run[key]
            for key in ("tensor_bytes", "adapter_bytes", "peak_reserved", "batch_min_s", "batch_s")
            if key in run
        }
        kept |= {key: run[key] for key in ("tokens_s", "edges", "process_bytes", "outcome", "phases") if key in run}
        if "worst" in run:
            passes = [*run["worst"]["joint"], *run["worst"]["late"]]
            kept["peak_allocated"] = max(max(p["between_peak"], p["pass_peak"]) for p in passes)
            kept["peak_reserved"] = run["worst"]["peak_reserved"]
        if "timings" in run:
            kept["timings"] = [{key: _rounded(value) for key, value in timing.items()} for timing in run["timings"]]
        runs.append(kept)
    machine = next(run["machine"] for run in document["runs"] if "machine" in run)
    return {**{key: document[key] for key in ("schema", "at", "set")}, "machine": machine, "runs": runs}


def _spec(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in ("folder", "lock")}


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def compared(document: dict[str, Any], speed: SpeedFacts | None = None) -> Iterator[Compared]:
    """Every figure of every run beside its prediction; `speed` in place of cold-start values."""
    for run in document["runs"]:
        if not run.get("problem"):
            yield from (_serving if run["spec"]["kind"] == "serve" else _training)(run, speed)


def _serving(run: dict[str, Any], speed: SpeedFacts | None) -> Iterator[Compared]:
    spec, made = run["spec"], shape(run["spec"]["model"])
    fleet = fleet_of(spec)
    ledger = serving_ledger(fleet, {"base": made})
    case = f"{_short(spec['model'])} {spec['form']} {spec['concurrency']} x {spec['context']}"
    weights = sum(line.bytes for line in ledger.lines if line.kind == "weights")
    yield Compared("weights", case, weights / GIB, run["tensor_bytes"] / GIB, "GiB")
    held = sum(line.bytes for line in ledger.lines if line.part != "driver context")
    yield Compared("serving peak", case, held / GIB, run["peak_reserved"] / GIB, "GiB")
    for timing in run.get("timings", []):
        names = timing["names"] if "adapter" in timing["case"] else 0
        answering = answering_of(
            fleet_of({**spec, "adapters": names}),
            "a0",
            {"base": made},
            speed or cold_start(find_card(CARD)),
            on_cpu=False,
        )
        step = answering.step_s(timing["lines"], timing["prompt"] + 5)
        full = f"{case}, {timing['case']}"
        yield Compared("decode step", full, step * 1e3, (timing["step_s"] + timing["gap_s"]) * 1e3, "ms")
        prefill = answering.prefill_s(timing["lines"], timing["prompt"]) - answering.engine.request_s
        yield Compared(
            "prefill",
            f"{full}, {timing['prompt']} tokens",
            prefill * 1e3,
            (timing["prefill_s"] + timing["gap_s"]) * 1e3,
            "ms",
        )


def _training(run: dict[str, Any], speed: SpeedFacts | None) -> Iterator[Compared]:
    spec, made = run["spec"], shape(run["spec"]["model"])
    recipe = Recipe.model_validate(spec["recipe"])
    if run.get("outcome", "ran") != "ran":
        return
    ledger = training_ledger("a", recipe, made, spec["row_tokens"])
    held = sum(line.bytes for line in ledger.lines if line.part != "driver context")
    how = "" if recipe.gradient_checkpointing else ", not recomputed"
    how += f", {len(recipe.added_tokens)} tokens added" if recipe.added_tokens else ""
    case = f"{_short(spec['model'])} {recipe.base_quantization} {recipe.batch.rows} x {spec['row_tokens']}{how}"
    yield Compared("training peak", case, held / GIB, run["peak_reserved"] / GIB, "GiB")
    rows = recipe.batch.rows
    data = DataFacts(rows, rows * spec["row_tokens"], spec["row_tokens"], "exact", "drawn")
    one = recipe.model_copy(update={"epochs": 1.0, "batch": recipe.batch.model_copy(update={"accumulate": 1})})
    time = run_time(one, made, data, speed or cold_start(find_card(CARD)), None)
    if time is not None:
        padding = 1.1 if rows > 1 else 1.0  # the rows of these runs are of one length
        yield Compared("training batch", case, time.seconds.expected * 1e3 / padding, run["batch_min_s"] * 1e3, "ms")


def fleet_of(spec: dict[str, Any]) -> Fleet:
    """The fleet that a serving case is."""
    model = {
        "id": spec["model"],
        "quantization": spec["form"],
        "context": spec["context"],
        "concurrency": spec["concurrency"],
        "engine": "local",
    }
    recipe = {"lora": {"rank": spec.get("rank", 16)}, "base_quantization": spec["form"]}
    agents = {
        f"a{n}": {"model": "base", "adapter": f"x{n}@v0001", "recipe": recipe} for n in range(spec.get("adapters", 0))
    }
    agents = agents or {"a0": {"model": "base"}}
    return Fleet.model_validate({"name": "truth", "card": CARD, "models": {"base": model}, "agents": agents})


def _short(model_id: str) -> str:
    return model_id.rpartition("/")[2].removesuffix("-Instruct").removesuffix("-instruct")


def page(documents: Sequence[dict[str, Any]], speed: SpeedFacts | None = None) -> str:
    """Summaries by set and quantity, then every case."""
    out = []
    for document in documents:
        found = list(compared(document, speed))
        machine = document["machine"]
        out += [
            f"## Set `{document['set']}`, measured {document['at'][:10]}",
            "",
            f"{machine['card']}, {machine['cores']} cores of {machine['processor']}; torch {machine['torch']}, transformers "
            f"{machine['transformers']}, bitsandbytes {machine['bitsandbytes']}, peft {machine['peft']}, trl {machine['trl']}.",
            "",
            "| figure | target | cases | median error | worst | within 5% | within 10% |",
            "|---|---|---|---|---|---|---|",
        ]
        for what, target in TARGETS.items():
            errors = [one.error for one in found if one.what == what]
            if errors:
                worst = max(errors, key=abs)
                near = [sum(abs(error) <= limit for error in errors) / len(errors) for limit in (0.05, 0.10)]
                middle = median(abs(error) for error in errors)
                out.append(
                    f"| {what} | {target} | {len(errors)} | {middle:.2%} | {worst:+.2%} | {near[0]:.0%} | {near[1]:.0%} |"
                )
        out += ["", *_cases(found), ""]
        failed = [run for run in document["runs"] if run.get("problem")]
        if failed:
            out += [
                f"{len(failed)} cases did not run (no time was left): "
                + ", ".join(sorted({_short(r["spec"]["model"]) for r in failed}))
                + ".",
                "",
            ]
    return "\n".join(out)


def _cases(found: Sequence[Compared]) -> list[str]:
    out = []
    for what in TARGETS:
        of_kind = [one for one in found if one.what == what]
        if not of_kind:
            continue
        out += [
            f"### {what.capitalize()}, every case",
            "",
            f"| case | planned, {of_kind[0].unit} | measured | error |",
            "|---|---|---|---|",
        ]
        digits = 3 if of_kind[0].unit == "GiB" else 1
        out += [
            f"| {one.case} | {one.predicted:.{digits}f} | {one.measured:.{digits}f} | {one.error:+.1%} |"
            for one in of_kind
        ]
        out.append("")
    return out


def read(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in files]
