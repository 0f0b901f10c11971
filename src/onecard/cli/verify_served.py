"""A started service as checks: ready, each agent under its own adapter, weights as small as their quantization, memory, the end. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecard.catalog.units import format_bytes
from onecard.cli.verify_records import Check, judged, not_asked, unseen
from onecard.planner.ledger import Tag
from onecard.planner.plan import TIGHT_SHARE
from onecard.wire.health import Health

if TYPE_CHECKING:
    from onecard.cli.verify_service import Stopped
    from onecard.fleet.schema import Fleet
    from onecard.planner.plan import Plan

# How far the held weights may be from the plan's, as a share: the linear layers of the next quantization are 1.7 times as large.
WEIGHTS_RANGE = 0.02
UNSURE: tuple[Tag, ...] = ("fitted", "assumed")
SHORT = 12


@dataclass(frozen=True)
class Page:
    """What GET of one of the service's own pages answered."""

    path: str
    status: int | None
    text: str


@dataclass(frozen=True)
class Named:
    """Who answered one short chat of an agent, by its headers; `problem` when nobody did."""

    agent: str
    said: str = ""
    digest: str = ""
    adapter: str = ""
    problem: str = ""


def start_checks(seconds: float, url: str, health: Page, ready: Page) -> Iterator[Check]:
    """It serves, and its two pages say so."""
    yield judged(
        "service", "start", "serves on a free loopback port", True, f"after {seconds:.1f} s", "a process that says where",
        f"onecard serve --port 0 --json at {url}", "",
    )  # fmt: skip
    for page in (health, ready):
        yield judged(
            "service", page.path, f"GET {page.path}", page.status == 200, f"{page.status or 'no answer'}", "200",
            page.text[:90], "read what it says; onecard doctor finds the cause",
        )  # fmt: skip


def named_checks(answers: Mapping[str, Named], digests: Mapping[str, str | None], fleet_file: str) -> Iterator[Check]:
    """Every agent answered under the adapter of the store: the headers against the digests that were read from the files."""
    for agent, answer in answers.items():
        wanted = (digests.get(agent) or "none")[:SHORT]
        itself = not answer.problem and answer.said == agent and answer.digest == (digests.get(agent) or "none")
        seen = answer.problem or f"{answer.said or 'nobody'}: {answer.adapter or '-'} ({answer.digest[:SHORT] or '-'})"
        yield judged(
            "service", agent, "answers under its own adapter", itself, seen, f"{agent}: digest {wanted}",
            "headers x-onecard-agent, -adapter, -digest beside the store",
            f"restart the service; onecard adapters verify --fleet {fleet_file}",
        )  # fmt: skip


def load_checks(health: Health, fleet: Fleet, plan: Plan | None) -> Iterator[Check]:
    """Each model held in its quantization: by the bytes of its tensors beside the plan's, not by what it calls itself."""
    for key, spec in fleet.models.items():
        what = "not quantized" if spec.quantization == "none" else f"loaded in {spec.quantization}"
        told = next((model for model in health.models if model.name == key), None)
        if told is None:
            yield judged(
                "load", key, what, False, "the service does not name it", spec.id, "GET /health", "onecard doctor"
            )
            continue
        held = sum(part.bytes for part in health.memory.parts if part.model == key and part.name == "base weights")
        planned = sum(line.bytes for line in plan.serving.of(key).lines if line.kind == "weights") if plan else 0
        if not held or not planned:
            reason = f"it says {told.quantization}, and there are no bytes of {'the plan' if held else 'its tensors'} to tell by"
            yield unseen("load", key, what, reason, spec.quantization, "")
            continue
        close = abs(held - planned) <= WEIGHTS_RANGE * planned
        yield judged(
            "load", key, what, close and told.quantization == spec.quantization,
            f"{told.quantization}, {told.dtype} on {told.device}: {format_bytes(held)} of tensors",
            f"{spec.quantization}: {format_bytes(planned)} by the plan, within {WEIGHTS_RANGE:.0%}",
            f"GET /health after loading: {spec.id}, fingerprint {told.fingerprint[:SHORT]}",
            "compare models.*.quantization with what the checkpoint is; onecard plan",
        )  # fmt: skip


def memory_checks(health: Health, plan: Plan | None, other_card: str | None, fleet_file: str) -> Iterator[Check]:
    """What serving took after everything was asked, under the card's memory and beside the plan."""
    what = "memory of serving, after all requests"
    taken = health.memory.taken_bytes
    if plan is None or taken is None or other_card is not None:
        reason = other_card or (
            "the service does not say what it takes" if plan else "there is no plan to hold it against"
        )
        yield unseen("memory", "serving", what, reason, "", f"onecard plan {fleet_file}")
        return
    where = "the card's peak" if health.memory.gpu_bytes is not None else "resident size of the process"
    yield judged(
        "memory", "serving", what, taken <= plan.available_bytes, format_bytes(taken),
        f"at most {format_bytes(plan.available_bytes)}, {plan.card.name} less the reserve", f"GET /health: {where}",
        f"lower context or concurrency; onecard plan {fleet_file}",
    )  # fmt: skip
    allowed = plan.need_bytes + round(TIGHT_SHARE * sum(plan.serving.bytes_tagged(tag) for tag in UNSURE))
    yield judged(
        "memory", "serving", "about what was planned", taken <= allowed,
        f"{format_bytes(taken)}, {taken / plan.need_bytes:.0%} of the planned {format_bytes(plan.need_bytes)}",
        f"at most {format_bytes(allowed)}: what is not exact in the plan may be {TIGHT_SHARE:.0%} more",
        f"GET /health: {where}", f"onecard calibrate, then onecard plan {fleet_file}",
    )  # fmt: skip


def stop_checks(stopped: Stopped, leftovers: tuple[str, ...]) -> Iterator[Check]:
    """One Ctrl-C ends it with code 0, its port is free, no process and no file of it is left."""
    left = [f"process {pid}" for pid in stopped.left] + list(leftovers)
    seen = (
        f"exit code {stopped.code} after {stopped.seconds:.1f} s, port {'free' if stopped.port_free else 'still taken'}"
    )
    yield judged(
        "service", "stop", "stops cleanly and leaves nothing behind", stopped.clean and not leftovers,
        f"{seen}, {', '.join(left) or 'nothing left'}", "exit code 0, port free, nothing left",
        "SIGINT, as Ctrl-C sends it", "onecard doctor finds what was left behind",
    )  # fmt: skip


def not_started(
    fleet: Fleet, criteria: tuple[str, ...], reason: str, agents: tuple[str, ...], plan: Plan | None = None
) -> Iterator[Check]:
    """What a service that is not there leaves unseen, one line a criterion and agent; of a deadline what the plan says of it."""
    planned = {speed.agent: speed.because for speed in plan.agents} if plan else {}
    if "load" in criteria:
        yield from (unseen("load", key, f"loaded in {spec.quantization}", reason) for key, spec in fleet.models.items())
    if "service" in criteria:
        for agent in agents:
            yield unseen("service", agent, "answers under its own adapter", reason)
        yield unseen("service", "stop", "stops cleanly and leaves nothing behind", reason)
    if "memory" in criteria:
        yield unseen("memory", "serving", "memory of serving, after all requests", reason)
    for agent in agents if "style" in criteria else ():
        yield unseen("style", agent, "every preset obeyed over HTTP", reason)
    if "requests" in criteria:
        yield unseen("requests", "service", "malformed requests get clear errors", reason)
    for agent in agents if "deadline" in criteria else ():
        if fleet.agents[agent].deadline is None:
            yield not_asked("deadline", agent, "deadline kept under load", "the fleet gives it none")
        else:
            because = f"; planned: {planned[agent]}" if planned.get(agent) else ""
            yield unseen("deadline", agent, "deadline kept under load", reason + because)
