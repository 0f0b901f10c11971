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
    if "peak_reserved" in run:
        yield Compared("serving peak", case, need_bytes(spec) / GIB, run["peak_reserved"] / GIB, "GiB")
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


def need_bytes(spec: dict[str, Any]) -> int:
    """What a serving case is planned to take of torch's memory."""
    ledger = serving_ledger(fleet_of(spec), {"base": shape(spec["model"])})
    return sum(line.bytes for line in ledger.lines if line.part != "driver context")


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


HEAD = """# How true the plan is

Written by `benchmarks/planner_truth.py table`: kept measurements beside what the planner of this checkout says of the same cases, without
any calibration. Whole models of real shape with random weights, each case in a fresh process, through onecard's own engine and training
loop. "Serving peak" is what torch reserved at the worst moment that the engine allows (all callers at full context, prefilled together,
then one joining the others), "training peak" the same over a run; the driver's context is in neither. "Decode step" and "prefill" leave
out HTTP. Constants were fitted to set `fit`; other sets check them.
"""

READING = """## What to know when reading this

- **int8 with random weights is worse than int8 with real ones.** bitsandbytes multiplies every column that reaches its threshold of 6 in
  16 bits. In set `fit` nearly every input column of the down projection does, in trained models few do. The serving plan reckons with all
  of them, so it is safe; a training run in int8 on such weights keeps more than is planned (the worst training peak here), which trained
  weights should not do. That was not measured again yet.
- **Times were taken while other cases loaded their models.** Whoever takes a time has the GPU alone, not the host; a step that is ruled
  by the host then varies by up to a third between cases that should be equal (see Falcon in its three "forms", which are the same).
- **What a card costs beside torch** (the driver's context) was not measured here; the plan assumes 0.45 GiB for it.
- No calibration of a GPU was recorded yet, so the calibrated targets (1.5% memory, 5% decode) are open.
"""


def page(documents: Sequence[dict[str, Any]], speed: SpeedFacts | None = None) -> str:
    """Summaries by set and quantity, cards made small, then every case."""
    out = [HEAD]
    everything = [(document, list(compared(document, speed))) for document in documents]
    for document, found in everything:
        out += [
            f"## Set `{document['set']}`, measured {document['at'][:10]}",
            "",
            _machine(document),
            "",
            *_summary(found),
            "",
        ]
        failed = sorted({_short(run["spec"]["model"]) for run in document["runs"] if run.get("problem")})
        if failed:
            out += [f"Cases that did not run, for want of time: {', '.join(failed)}.", ""]
    out += _edges(documents)
    out.append(READING)
    for document, found in everything:
        out += [f"## Every case of set `{document['set']}`", "", *_cases(found)]
    return "\n".join(out).rstrip() + "\n"


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return (
        f"{machine['card']}, {machine['cores']} cores of {machine['processor']}; torch {machine['torch']}, transformers "
        f"{machine['transformers']}, bitsandbytes {machine['bitsandbytes']}, peft {machine['peft']}, trl {machine['trl']}."
    )


def _summary(found: Sequence[Compared]) -> list[str]:
    out = [
        "| figure | target | cases | median error | worst | within 5% | within 10% |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, target in TARGETS.items():
        for name, of_kind in _kinds(what, [one for one in found if one.what == what]):
            errors = [one.error for one in of_kind]
            near = [sum(abs(error) <= limit for error in errors) / len(errors) for limit in (0.05, 0.10)]
            middle = median(abs(error) for error in errors)
            worst = max(errors, key=abs)
            out.append(
                f"| {name} | {target} | {len(errors)} | {middle:.1%} | {worst:+.1%} | {near[0]:.0%} | {near[1]:.0%} |"
            )
    return out


def _kinds(what: str, found: Sequence[Compared]) -> Iterator[tuple[str, list[Compared]]]:
    """All of them, and times also by the form of the weights."""
    if found:
        yield what, list(found)
    if what in ("decode step", "prefill"):
        for form in ("none", "nf4", "int8"):
            of_form = [one for one in found if one.case.split()[1] == form]
            if of_form:
                yield f"{what}, {'16 bits' if form == 'none' else form}", of_form


def _edges(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Verdicts on cards made small with torch.cuda.set_per_process_memory_fraction."""
    rows = []
    for document in documents:
        for run in document["runs"]:
            for edge in run.get("edges", []):
                case = (
                    f"{_short(run['spec']['model'])} {run['spec']['form']}, {edge['concurrency']} x {edge['context']}"
                )
                verdict = "fits" if edge["fits"] else "does not fit"
                ran = "ran" if edge["outcome"] == "ran" else "out of memory"
                now = need_bytes({**run["spec"], "context": edge["context"], "concurrency": edge["concurrency"]}) / GIB
                right = "" if (ran == "ran") == edge["fits"] else " **(wrong)**"
                rows.append(f"| {case} | {edge['cap_bytes'] / GIB:.2f} | {verdict} | {ran}{right} | {now:.2f} |")
    if not rows:
        return []
    head = "A card that holds exactly what was planned when it was measured, and one with 6% less."
    return [
        "## Cards made small",
        "",
        head,
        "",
        "| case | GiB for torch | planned then | what happened | needs, as planned now |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


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
