"""Findings about a fleet on this machine: its models and memory, and the calibration and cold start of what it is served by."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from onecard.catalog.units import GIB, format_bytes
from onecard.cli.doctor_findings_places import free_some, unset
from onecard.cli.doctor_records import Facts, Finding, FleetFacts
from onecard.cli.main import VERBS

SPARE_BYTES = GIB  # beside the models: tokenizers, configs, and what else is written meanwhile
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = {"1", "ON", "YES", "TRUE"}
SLOW_START_S = 30.0
SLOW_IMPORTS_S = 15.0
PREWARM_LIBRARIES = "python -c 'import torch, transformers, peft, bitsandbytes'"


def models(facts: Facts) -> Iterator[Finding]:
    """Which of the fleet's models are on this disk; offline, what is missing stays missing."""
    fleet = facts.fleet
    if fleet is None or not fleet.models:
        return
    for model in fleet.missing:
        if not model.from_hub:
            yield Finding(
                "problem",
                "models",
                f"models.{model.key}: {model.fault}",
                "it cannot be loaded",
                edit(fleet, f"models.{model.key}.id"),
            )
    wanted = [model for model in fleet.missing if model.from_hub]
    offline = [name for name in OFFLINE if facts.machine.environment.get(name, "").upper() in TRUE]
    names = ", ".join(model.id for model in wanted)
    if wanted and offline:
        yield Finding(
            "problem", "models", f"{' and '.join(offline)} is set, and not on this disk: {names}",
            "offline nothing is fetched, so the fleet cannot be served", unset(facts, *offline),
        )  # fmt: skip
    elif wanted:
        size = sum(model.missing_bytes or 0 for model in wanted)
        takes = f" ({format_bytes(size)} to fetch)" if size else ""
        yield Finding(
            "warning", "models", f"not on this disk: {names}{takes}", "the fleet cannot be served before",
            fetch(*(model.id for model in wanted)),
        )  # fmt: skip
    elif not fleet.missing:
        yield Finding("ok", "models", f"{len(fleet.models)} of {len(fleet.models)} models on this disk")


def servable(facts: Facts) -> Iterator[Finding]:
    """Whether a service would start at all: agents that can be served, with adapters that are in the store."""
    fleet = facts.fleet
    if fleet is None or fleet.refused is None:
        return
    key = fleet.refused.where.rpartition(": ")[2]
    mend = fleet.refused.mend or edit(fleet, key or fleet.refused.problem)
    yield Finding("warning", "fleet", fleet.refused.problem, "`onecard serve` refuses the fleet as it is", mend)


def token(facts: Facts) -> Iterator[Finding]:
    """Gated models that are still to be fetched, and nobody to ask as."""
    gated = [model.id for model in facts.fleet.missing if model.gated] if facts.fleet else []
    if gated and not facts.token:
        yield Finding(
            "problem", "token", f"no token, and gated: {', '.join(gated)}",
            f"accept the terms at https://huggingface.co/{gated[0]}, then log in; HF_TOKEN does as well", "hf auth login",
        )  # fmt: skip


def disk(facts: Facts) -> Iterator[Finding]:
    """Room for what is still to be fetched."""
    fleet = facts.fleet
    place = next((place for place in facts.places if place.what == "models" and place.fault is None), None)
    if fleet is None or place is None:
        return
    missing = sum(model.missing_bytes or 0 for model in fleet.missing)
    if not missing or place.free_bytes >= missing + SPARE_BYTES:
        return
    short = missing + SPARE_BYTES - place.free_bytes
    yield Finding(
        "problem", "disk", f"{format_bytes(place.free_bytes)} free in {place.path} ({place.set_by}), and the fleet's models take "
        f"{format_bytes(missing)} more", f"{format_bytes(short)} too little; free it, or put HF_HOME on a larger volume",
        free_some(missing + SPARE_BYTES),
    )  # fmt: skip


def memory(facts: Facts) -> Iterator[Finding]:
    """The plan against what is free now: what would run out of memory at the first request, and what to lower to what."""
    fleet = facts.fleet
    if fleet is None:
        return
    file = shlex.quote(str(fleet.file))
    if fleet.other_card is not None:
        yield Finding(
            "warning", "fleet", f"{fleet.name} is written for {fleet.other_card}, which is not in this machine",
            "its plan and its deadlines are that card's", f"onecard plan {file} --card auto",
        )  # fmt: skip
    if fleet.memory_fault is not None:
        yield Finding(
            "warning",
            "memory",
            f"{fleet.name} cannot be planned: {fleet.memory_fault}",
            "nothing holds it against the card",
            f"onecard plan {file}",
        )
    need = fleet.memory
    if need is None:
        return
    if need.need_bytes <= need.free_bytes:
        yield Finding("ok", "memory", f"{format_bytes(need.need_bytes)} needed, {format_bytes(need.free_bytes)} free")
        return
    what = f"{fleet.name} needs {format_bytes(need.need_bytes)} on the {need.planned_on}, and {format_bytes(need.free_bytes)} is free now"
    held = "others hold the rest" if need.fits_empty else "it would not fit an empty card either"
    if need.advice:
        lower = "; ".join(need.advice)
        yield Finding(
            "problem",
            "memory",
            what,
            f"it would run out of memory at a large request: {held}. What helps: {lower}",
            edit(fleet, lower),
        )
    else:
        yield Finding(
            "problem", "memory", what, f"it would run out of memory at once: {held}. Neither context nor callers are enough",
            f"onecard plan {file} --card auto",
        )  # fmt: skip


def calibration(facts: Facts) -> Iterator[Finding]:
    """Whether the calibration was measured with the driver and torch of now."""
    measured, gpu = facts.calibrated, facts.machine.gpu
    if measured is None:
        return
    torch = facts.packages.installed.get("torch")
    changed = []
    if gpu is not None and measured.driver and gpu.driver and measured.driver != gpu.driver:
        changed.append(f"driver {measured.driver}, now {gpu.driver}")
    if measured.torch and torch and measured.torch.partition("+")[0] != torch.partition("+")[0]:
        changed.append(f"torch {measured.torch}, now {torch}")
    if measured.fault is not None:
        yield Finding(
            "warning",
            "calibration",
            f"{measured.file}: {measured.fault}",
            "plans rest on data sheets until it is mended",
            "onecard calibrate",
        )
    elif changed:
        yield Finding(
            "warning", "calibration", f"measured on {measured.at[:10]} with {'; '.join(changed)}",
            "what was measured may no longer be so, and plans rest on it", "onecard calibrate",
        )  # fmt: skip
    else:
        yield Finding("ok", "calibration", f"calibrated on {measured.at[:10]}")


def cold_start(facts: Facts) -> Iterator[Finding]:
    """The time of each part of a start, and how to take the longest one before the first request."""
    place = next((place for place in facts.places if place.what == "models"), None)
    here = [model for model in facts.fleet.models if model.folder is not None] if facts.fleet else []
    weights = f"{shlex.quote(str(here[0].folder))}/*.safetensors" if here else ""
    if place is not None and place.network and here:
        yield Finding(
            "warning", "cold start", f"models lie on another machine's volume ({place.path})",
            "every start reads them over the network; read them once beforehand", f"cat {weights} > /dev/null",
        )  # fmt: skip
    start = facts.cold_start
    if start is None:
        return
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in start.parts)
    if start.fault is not None:
        done = f" after {parts}" if parts else ""
        yield Finding(
            "problem",
            "cold start",
            f"{start.model} does not start: {start.fault}{done}",
            "`onecard serve` would fail the same way",
            _check(facts) if here or facts.fleet is None else fetch(*(model.id for model in facts.fleet.missing)),
        )
        return
    what = f"{start.model}: {start.total_s:.1f} s to {start.until} on {start.at[:10]}: {parts}"
    imports = sum(seconds for name, seconds in start.parts if name.startswith(("import", "start")))
    if start.total_s <= SLOW_START_S and imports <= SLOW_IMPORTS_S:
        yield Finding("ok", "cold start", what)
        return
    longest = max(start.parts, key=lambda part: part[1])[0]
    slow_imports = imports >= start.total_s / 2 or imports > SLOW_IMPORTS_S
    if slow_imports:
        why, mend = "most of it is importing: read the libraries into memory beforehand", PREWARM_LIBRARIES
    elif longest in ("read the weights", "hash the weights") and weights:
        why, mend = "most of it is the disk: read the weights into memory beforehand", f"cat {weights} > /dev/null"
    else:
        why, mend = f"the longest part is '{longest}': start it and ask every agent before users do", _check(facts)
    yield Finding("warning", "cold start", what, why, mend)


def _check(facts: Facts) -> str:
    return f"onecard serve {shlex.quote(str(facts.fleet.file))} --check" if facts.fleet else "onecard demo"


def edit(fleet: FleetFacts, what: str) -> str:
    """Opens the fleet file; what to change stands behind it as the shell's comment."""
    return f"${{EDITOR:-vi}} {shlex.quote(str(fleet.file))}   # {what}"


def fetch(*ids: str) -> str:
    """The command that downloads these models, or the rest of them."""
    if "fetch" in VERBS:
        return f"onecard fetch {' '.join(map(shlex.quote, ids))}"
    return " && ".join(f"onecard fetch {shlex.quote(model)}" for model in ids)
