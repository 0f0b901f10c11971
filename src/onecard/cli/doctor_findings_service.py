"""Findings about who answers: the port and the process behind it, and the active model against what a service has loaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from onecard.cli.doctor_findings_fleet import fetch
from onecard.cli.doctor_records import Active, Facts, Finding, FleetFacts, Port, Service


def port(facts: Facts) -> Iterator[Finding]:
    """Who holds the port that the fleet is served on, and whether it is this fleet."""
    here, fleet = facts.port, facts.fleet
    service = here.service
    if not here.taken:
        yield Finding("ok", "port", f"port {here.number} is free")
    elif service is not None and service.onecard and service.status == "failed":
        yield Finding(
            "problem", "port", f"the service on port {here.number} has failed: {service.detail or 'it does not say why'}",
            "it answers nothing until it is started again", _again(here, fleet), _rights(here),
        )  # fmt: skip
    elif fleet is None:
        yield _port_without_fleet(here)
    elif service is None or service.fleet != fleet.name:
        what = f"the fleet {service.fleet}" if service and service.fleet else _holder(here)
        yield Finding(
            "problem", "port", f"port {here.number} is taken by {what}", f"{fleet.name} cannot be served on it",
            f"onecard serve {shlex.quote(str(fleet.file))} --port 0",
        )  # fmt: skip
    elif fleet.digest != service.fleet_digest:
        yield Finding(
            "warning", "port", f"the service on port {here.number} serves another state of {fleet.name}",
            "the fleet file was changed after it started", _again(here, fleet), _rights(here),
        )  # fmt: skip
    else:
        yield Finding("ok", "port", f"{fleet.name} is served on port {here.number}")


def _port_without_fleet(here: Port) -> Finding:
    if here.service is not None:
        return Finding("ok", "port", f"port {here.number} serves {', '.join(here.service.models) or 'no model'}")
    mend = f"kill {here.holder.pid}" if here.holder else f"sudo ss -tlnp 'sport = :{here.number}'"
    return Finding(
        "warning", "port", f"port {here.number} is taken by {_holder(here)}, which is no model service",
        "`onecard serve` needs it, or another with --port", mend, _rights(here),
    )  # fmt: skip


def _holder(here: Port) -> str:
    """The process as people can find it again."""
    if here.holder is None:
        return "a process of another user" if here.service is None else "another service"
    return f"{here.holder.name or 'a process'} (pid {here.holder.pid})"


def _again(here: Port, fleet: FleetFacts | None) -> str:
    stop = f"kill {here.holder.pid}" if here.holder else f"sudo fuser -k {here.number}/tcp"
    return stop if fleet is None else f"{stop}; onecard serve {shlex.quote(str(fleet.file))} --port {here.number}"


def _rights(here: Port) -> bool:
    return here.holder is None or not here.holder.own


def active(facts: Facts) -> Iterator[Finding]:
    """The model that was made active against what the service has loaded and what this shell says."""
    chosen = facts.active
    if chosen is None:
        return
    use = f"onecard use {shlex.quote(chosen.asked)}" if chosen.asked else "onecard use --list"
    if chosen.fault is not None:
        yield Finding(
            "problem", "active model", f"{chosen.file}: {chosen.fault}", "nobody can tell which model is active", use
        )
        return
    fine = True
    if chosen.gone is not None:
        fine = False
        yield Finding(
            "problem", "active model", f"{chosen.id}: {chosen.gone}", "no engine can load it", _restored(chosen, use)
        )
    service = facts.port.service
    if not chosen.fetched and service is None:
        fine = False
        yield Finding(
            "warning", "active model", f"{chosen.id} is active, and not on this disk: {chosen.repository}",
            "an engine would start with a download, or fail", fetch(chosen.repository),
        )  # fmt: skip
    loaded = service.models if service is not None else ()
    if service is not None and loaded and not same_model(chosen.names, loaded):
        fine = False
        yield Finding(
            "problem", "active model",
            f"{chosen.id} is active, and the service on port {facts.port.number} has loaded {', '.join(service.models)}",
            "answers come from another model than the one that was chosen", _reload(facts, service, use), _rights(facts.port),
        )  # fmt: skip
    told = facts.machine.environment.get("VLLM_MODEL_ID")
    if told is not None and not same_model(chosen.names, (told,)):
        fine = False
        yield Finding(
            "warning", "active model", f"{chosen.id} is active, and VLLM_MODEL_ID of this shell is {told}",
            "vLLM started from here would load that", f'eval "$({use})"',
        )  # fmt: skip
    if fine:
        yield Finding("ok", "active model", f"{chosen.id} is active")


def _restored(chosen: Active, use: str) -> str:
    """Fetched again from the hub; a folder of one's own can only be put back or another model chosen."""
    return use if chosen.repository.startswith(("/", ".", "~")) else fetch(chosen.repository)


def same_model(names: frozenset[str], loaded: tuple[str, ...]) -> bool:
    """Whether one of the loaded is the active model by any of its names, whatever the case; folders are compared without a slash."""
    known = {name.lower().rstrip("/") for name in names}
    return any(name.lower().rstrip("/") in known for name in loaded)


def _reload(facts: Facts, service: Service, use: str) -> str:
    """A service of a fleet follows its file, so the record is brought to it; any other is started again with what is active."""
    if service.onecard:
        return f"onecard use {shlex.quote(service.models[0])}"
    stop = f"kill {facts.port.holder.pid}" if facts.port.holder else f"sudo fuser -k {facts.port.number}/tcp"
    return f'{stop}; eval "$({use})" && vllm serve "$VLLM_MODEL_ID" --port {facts.port.number}'
