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
from onecard.evidence.calibration import Calibration, read_calibration
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Fleet
from onecard.planner import engine_facts
from onecard.planner.calibrated import calibrated_context, calibrated_speed
from onecard.planner.memory import serving_ledger
from onecard.planner.requests import answering_of
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model
from onecard.planner.speed import SpeedFacts, cold_start
from onecard.planner.training import recomputed_layers, training_ledger

CARD = "h200"
TARGETS = {
    "weights": "within 0.5%",
    "serving peak": "within 3% cold",
    "training peak": "5% median, 10% worst",
    "decode step": "within 10% cold, 5% calibrated",
    "prefill": "within 15%",
    "training, allocated": "no target was set",
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
    repeated = run.get("torch", "2.11") < "2.12"
    ledger = training_ledger("a", recipe, made, spec["row_tokens"], keys_repeated=repeated)
    held = sum(line.bytes for line in ledger.lines if line.part != "driver context")
    again = recomputed_layers(recipe, made)
    how = "" if again == made.layers else f", {again} of {made.layers} layers recomputed"
    how += f", {len(recipe.added_tokens)} tokens added" if recipe.added_tokens else ""
    case = f"{_short(spec['model'])} {recipe.base_quantization} {recipe.batch.step_rows} x {spec['row_tokens']}{how}"
    peak = max(phase["peak"] for phase in run["phases"])
    if run["peak_reserved"] >= peak:  # the rehearsal starts the counter anew, and may have been the largest
        yield Compared("training peak", case, held / GIB, run["peak_reserved"] / GIB, "GiB")
    holes = sum(line.bytes for line in ledger.lines if line.part == "allocator holes")
    yield Compared("training, allocated", case, (held - holes) / GIB, peak / GIB, "GiB")


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

Written by `benchmarks/planner_truth.py table`: kept measurements beside what the planner of this checkout says of the same cases, with
cold-start values. Whole models of real shape with random weights, each case in a fresh process, through onecard's own engine and training
loop. "Serving peak" is what torch reserved at the worst moment that the engine allows (all callers at full context, prefilled together,
then one joining the others), "training peak" the same over a run; the driver's context is in neither. "Decode step" and "prefill" leave
out HTTP. Constants were fitted to set `fit`; other sets check them.
"""

CALIBRATION = """`onecard calibrate` took 99 s in all on a machine of this kind
(docs/measurements/2026-11-21-calibration-h200.json): copies at 4,183 GB/s, bf16 products up to 784 TFLOP/s, a context of 0.74 GiB. Rates
and context are taken as measured. The host's part is scaled by how long the same small model takes beside this very file, so here
calibrated and cold agree by construction; taken as such, the small model's times made steps a fifth too short (it has no adapters beside
a bare line, and fits the processor's caches). How well the scaling carries over to another host is not measured. The file's steps in 16
bits and nf4 are from a second run, for the reason it names."""

READING = """## What to know when reading this

- **What is allocated is known better than what is reserved.** Without the allocator's holes the plan of 16 bits and nf4 is within 0.04 GiB
  in 29 of 30 cases. The holes were 2% to 17% of what comes and goes (24% once) and are planned as one share: that is nearly all of the
  error. So a card that holds exactly what is planned is a coin's toss: half of 12 such cards ran. No serving case is planned more than
  1.2% too small today; a plan with that much left over would have run each time.
- **int8 depends on how many Linears meet a column above its threshold of 6**, each of them costing about 0.3 ms a step and more in a
  prefill. In set `fit` it was the down projection, in every layer: Llama-3.1-8B took 79 ms. In set `check`, whose weights are half as
  large, none: 68 ms where 79 are planned, and prefills are up to a third shorter than planned. In OLMo-3, which does not normalize what
  goes into its Linears, probably all: 142 ms where 85 are planned. Trained models are said to have a few such columns in most layers;
  none was measured. The plan reckons with the first for time, and with every column an outlier for memory. For the same reason the
  training run of Qwen3-8B in int8 kept a quarter more than planned; it was not measured again.
- **Times of set `check` were taken alone, one case after another**, those of the others while other cases loaded. The first case of a
  process was still slow at times (SmolLM3 nf4 43 ms, then 32; Llama-3.1 nf4 37, then 30), and so was one adapter's step of OLMo-3
  (81 ms, its fastest 54).
- **Every time is that of lengths met before.** On Hopper torch chooses cuDNN's attention, which plans every new pair of batch and length:
  36 ms for a decode step, 0.5 s for the first prompt of 2,048 tokens, measured apart from these cases. A service meets the former anew
  for every length. With torch's other kernels a new length costs nothing; one call of a decode step takes 50 us in place of 29, which
  the host hides, and attention over 2,048 new tokens 180 us a layer in place of 108.
- **A bare base is slower with adapters beside it**, for PEFT wraps every Linear of it: by about 26 us each, to judge by what the small
  model of the calibration takes without. All bare times here have adapters beside them and the plan was fitted to them, so a base
  without any should be up to a quarter faster than planned. That was not timed.
- **Several lines with an adapter** are mostly planned 3 to 12% too short, probably because an adapter's fp32 products of a few rows take
  the device longer than those of one row.
- The context of a smaller card is assumed: 0.45 GiB is too little for an H200 by 0.3, which is nothing beside its memory, and was not
  measured elsewhere. `onecard calibrate` measures it.
"""


def page(documents: Sequence[dict[str, Any]], calibration: Calibration | None = None) -> str:
    """Summaries by set and quantity, the same with a calibration, cards made small, then every case."""
    out = [HEAD]
    everything = [(document, list(compared(document))) for document in documents]
    for document, found in everything:
        out += [f"## {_title(document, found)}", "", _machine(document), "", *_summary(found), ""]
        failed = sorted({_named(run["spec"]) for run in document["runs"] if run.get("problem")})
        if failed:
            out += [f"Cases that did not run, for want of time: {', '.join(failed)}.", ""]
    if calibration is not None:
        out += _with_calibration(documents, calibration)
    out += _processes(documents, calibration)
    out += _edges(documents)
    out.append(READING)
    for document, found in everything:
        out += [f"## Every case: {_title(document, found)}", "", *_cases(found)]
    return "\n".join(out).rstrip() + "\n"


def _title(document: dict[str, Any], found: Sequence[Compared]) -> str:
    seen = {one.what for one in found}
    kinds = {"memory": "serving peak", "times": "decode step", "training": "training peak"}
    parts = [word for word, what in kinds.items() if what in seen]
    return f"Set `{document['set']}`: {', '.join(parts)}, measured {document['at'][:10]}"


def _named(spec: dict[str, Any]) -> str:
    return f"{_short(spec['model'])} {spec.get('form') or spec['recipe']['base_quantization'] + ' (training)'}"


def _with_calibration(documents: Sequence[dict[str, Any]], calibration: Calibration) -> list[str]:
    """Times by set and form with cold-start values and with the calibration."""
    speed = calibrated_speed(calibration, find_card(CARD))
    rows = []
    for document in documents:
        cold, warm = list(compared(document)), list(compared(document, speed))
        for what, near in (("decode step", 0.05), ("prefill", 0.15)):
            both = zip(
                _kinds(what, [one for one in cold if one.what == what]),
                _kinds(what, [one for one in warm if one.what == what]),
                strict=True,
            )
            for (name, before), (_, after) in both:
                told = [
                    f"{median(abs(one.error) for one in some):.1%} | {sum(abs(one.error) <= near for one in some) / len(some):.0%}"
                    for some in (before, after)
                ]
                rows.append(f"| {document['set']} | {name} | {near:.0%} | {len(after)} | {' | '.join(told)} |")
    return [
        "## With a calibration of such a machine",
        "",
        CALIBRATION,
        "",
        "| set | figure | target | cases | median error, cold | within target | calibrated | within target |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _processes(documents: Sequence[dict[str, Any]], calibration: Calibration | None) -> list[str]:
    """What the driver says a serving process takes beyond what torch reserved, by form; and peaks with it."""
    held: dict[str, dict[str, float]] = {}
    for document in documents:
        for run in document["runs"]:
            if run.get("process_bytes"):
                held.setdefault(run["spec"]["form"], {})[run["spec"]["model"]] = run["process_bytes"] / GIB
    if not held:
        return []
    rows = [
        f"| {'16 bits' if form == 'none' else form} | {len(seen)} | {min(seen.values()):.2f} to {max(seen.values()):.2f} |"
        for form, seen in sorted(held.items())
    ]
    planned = f"{engine_facts.CARD_CONTEXT.bytes / GIB:.2f} GiB"
    context = calibrated_context(calibration) if calibration else None
    calibrated = f", with the calibration {context.bytes / GIB:.2f}" if context else ""
    return [
        "## What a process takes beside torch",
        "",
        f"The driver's context and the libraries' own memory, seen by nvidia-smi. Planned: {planned}{calibrated}.",
        "",
        "| form | models | GiB |",
        "|---|---|---|",
        *rows,
        "",
        *_whole_cards(documents, held, context.bytes if context else None),
    ]


def _whole_cards(
    documents: Sequence[dict[str, Any]], held: dict[str, dict[str, float]], context: int | None
) -> list[str]:
    """Serving peaks with the process, where both were measured: cold and with the context of the calibration."""
    errors: dict[str, list[float]] = {"cold": [], "calibrated": []}
    for document in documents:
        for run in document["runs"]:
            spec = run["spec"]
            beside = held.get(spec.get("form", ""), {}).get(spec["model"])
            if beside is None or document["set"] != "check" or "peak_reserved" not in run:
                continue
            whole = run["peak_reserved"] + beside * GIB
            for how, taken in (("cold", engine_facts.CARD_CONTEXT.bytes), ("calibrated", context)):
                if taken is not None:
                    errors[how].append((need_bytes(spec) + taken) / whole - 1)
    told = [
        f"{how}: median {median(map(abs, some)):.1%}, worst {max(some, key=abs):+.1%}, "
        f"{sum(abs(error) <= limit for error in some)} of {len(some)} within {limit:.1%}"
        for (how, some), limit in zip(errors.items(), (0.03, 0.015), strict=True)
        if some
    ]
    return [f"Peak of the whole process where both were measured, {'; '.join(told)}.", ""] if told else []


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


def kept_calibration(file: Path) -> Calibration | None:
    return read_calibration(file) if file.exists() else None


def read(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in files]
