"""How long planning takes: every example fleet on its card, and the whole catalog on every card in four forms.

`python benchmarks/planning_speed.py [--repeats 3] [--out FILE]` writes one JSON document. Each of the catalog's plans is a whole
`plan()`: ledger, limits, speed with its deadline, faster ways, advice; and once more without predicted times, which says what memory,
limits and advice take by themselves. Targets: an example fleet under 1 s, the catalog under 3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pydantic

from onecard import __version__
from onecard.benchmark.machine import cpu_name
from onecard.catalog.cards import load_cards
from onecard.catalog.models import load_models
from onecard.cli.plan import card_of as fleet_card
from onecard.cli.plan import planned, shapes_of
from onecard.errors import OnecardError
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.fleet.schema import Fleet
from onecard.planner.plan import Evidence, plan
from onecard.planner.shapes import shape_of_model
from onecard.planner.speed import cold_start

FORMS = ("none", "int8", "nf4", "awq")
CONTEXT = 4096
EXAMPLE_TARGET_S, CATALOG_TARGET_S = 1.0, 3.0
HEAVY = ("torch", "transformers", "numpy")


def catalog_fleet(model_id: str, form: str, longest: int | None, callers: int) -> Fleet:
    """One model and one agent with a deadline, as somebody who compares candidates would write it."""
    spec = {"id": model_id, "quantization": form, "context": min(CONTEXT, longest or CONTEXT), "concurrency": callers}
    agent = {"model": "base", "deadline": {"seconds": 10, "prompt_tokens": 300, "new_tokens": 200}}
    return Fleet.model_validate({"name": "b", "card": "l4", "models": {"base": spec}, "agents": {"writer": agent}})


def plan_catalog(callers: int, *, timed: bool = True) -> tuple[int, Counter[str]]:
    """(plans made, what became of them): every model x card x form, shapes made anew.

    Not `timed`: as on cards whose compute rate nobody knows, so that memory, limits and advice are all there is to reckon.
    """
    outcomes: Counter[str] = Counter()
    for model in load_models():
        shapes = {"base": shape_of_model(model)}
        fleets = [catalog_fleet(model.id, form, model.max_context, callers) for form in FORMS]
        for fleet, card in product(fleets, load_cards()):
            try:
                believed = cold_start(card)
                made = plan(fleet, card, shapes, Evidence(speed=believed if timed else replace(believed, tflops=None)))
            except OnecardError:
                outcomes["refused"] += 1
                continue
            outcomes["fits" if made.fits else "advised" if made.advice else "too large"] += 1
    return sum(outcomes.values()), outcomes


def plan_example(file: Path) -> None:
    """One example fleet as `onecard plan` makes it, its data files read."""
    loaded = load_fleet(file)
    planned(loaded, fleet_card(loaded.fleet), shapes_of(loaded, offline=True), None)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(repeats: int) -> dict[str, Any]:
    """The document. The first round fills caches that a long-lived process has, and is told apart."""
    load_before = os.getloadavg()
    files = sorted(examples_folder().glob("*.yaml"))
    examples = {file.stem: [seconds_of(lambda file=file: plan_example(file)) for _ in range(repeats)] for file in files}
    catalog = {}
    for timed, callers in product((False, True), (1, 4)):
        times, cpu_times = [], []
        for _ in range(repeats):
            start, used = time.perf_counter(), time.process_time()
            plans, outcomes = plan_catalog(callers, timed=timed)
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - used)
        median = statistics.median(times)
        catalog[f"{'with' if timed else 'without'} predicted times, {callers} callers"] = {
            "plans": plans,
            "outcomes": dict(outcomes),
            "seconds": [round(second, 3) for second in times],
            "cpu_seconds": [round(second, 3) for second in cpu_times],
            "median_s": round(median, 3),
            "ms_a_plan": round(1000 * median / plans, 3),
            "target_s": CATALOG_TARGET_S,
            "of_target": round(median / CATALOG_TARGET_S, 2),
        }
    return {
        "schema": 1,
        "what": "time to plan, inside one process",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "load_average": {"before": load_before[0], "after": os.getloadavg()[0]},
        },
        "versions": {"onecard": __version__, "python": platform.python_version(), "pydantic": pydantic.VERSION},
        "models": len(load_models()),
        "cards": len(load_cards()),
        "forms": FORMS,
        "heavy_imports": sorted(set(HEAVY) & set(sys.modules)),
        "examples": {
            name: {
                "first_s": round(times[0], 3),
                "median_s": round(statistics.median(times), 3),
                "of_target": round(statistics.median(times) / EXAMPLE_TARGET_S, 3),
            }
            for name, times in examples.items()
        },
        "catalog": catalog,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(measure(options.repeats), indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
