"""The machine and the plan as checks: what `onecard doctor` and `onecard plan` say, held against what the fleet needs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecard.catalog.units import format_bytes
from onecard.cli import doctor_findings_machine as machine
from onecard.cli import doctor_findings_versions as versions
from onecard.cli.verify_records import Check, Outcome, judged, not_asked, unseen

if TYPE_CHECKING:
    from onecard.cli.doctor_records import Facts, Finding
    from onecard.fleet.schema import Fleet
    from onecard.planner.plan import Plan

LOOKED_AT = {
    "driver": (machine.card, "answers, and carries torch's CUDA", "no problem with it"),
    "torch": (versions.torch_build, "is built for this machine", "CUDA, ROCm or the CPU as the machine has it"),
    "bitsandbytes": (versions.bitsandbytes, "has a library for torch's CUDA or ROCm", "one of the same major version"),
    "versions": (versions.versions, "work together", "none that onecard refuses; best as pinned"),
    "variables": (machine.variables, "hide nothing and slow nothing", "none in the way"),
}

OF_A_CARD = ("driver", "torch", "bitsandbytes")  # what is right for one card says nothing of another machine's


@dataclass(frozen=True)
class FleetCard:
    """The card a fleet is for. `described`: by its figures, which no driver can confirm. `elsewhere` says why it is not in this
    machine; None: it is, or nobody can tell."""

    name: str
    described: bool
    elsewhere: str | None


def environment_checks(facts: Facts, card: FleetCard, fleet: str) -> Iterator[Check]:
    """The doctor's findings about card, driver and versions; first whether the fleet's card is the one in this machine.

    A warning passes with its words, for the doctor calls only a problem wrong.
    """
    here = facts.machine.gpu.name if facts.machine.gpu else "no card: the processor is planned as one"
    what = "the fleet's card is in this machine"
    if card.elsewhere is not None:
        next_step = f"run onecard verify {fleet} on the machine with that card"
        yield unseen("environment", "card", what, card.elsewhere, card.name, next_step)
    elif card.described:
        yield not_asked("environment", "card", what, f"the fleet gives figures, no name; this machine: {here}")
    else:
        yield judged("environment", "card", what, True, here, card.name, _tool(facts), "")
    for name, (look, what, needed) in LOOKED_AT.items():
        found = list(look(facts))
        if card.elsewhere is not None and name in OF_A_CARD:
            yield unseen("environment", name, what, card.elsewhere, needed)
        elif name == "driver" and facts.machine.gpu is None and all(finding.severity == "ok" for finding in found):
            yield not_asked("environment", name, what, here)
        elif found:
            yield _of_findings(name, what, found, needed)
        elif name == "bitsandbytes":
            yield not_asked("environment", name, what, "on a processor it needs none")


def _of_findings(name: str, what: str, found: list[Finding], needed: str) -> Check:
    problems = [finding for finding in found if finding.severity == "problem"]
    outcome: Outcome = "fail" if problems else "pass"
    seen = "; ".join(finding.what for finding in (problems or found))
    next_step = " && ".join(finding.mend for finding in problems if finding.mend)
    return Check("environment", name, what, outcome, seen, needed, "onecard doctor", next_step)


def _tool(facts: Facts) -> str:
    gpu = facts.machine.gpu
    return f"driver {gpu.driver or 'of unknown version'}" if gpu else "no driver's tool names a card"


def plan_checks(plan: Plan, fleet_file: str) -> Iterator[Check]:
    """Serving fits, every training run fits, and no deadline is planned to be missed; the plan's own figures."""
    available = f"at most {format_bytes(plan.available_bytes)}, {plan.card.name} less the reserve"
    change = plan.advice[0].changes[0].text if plan.advice and plan.advice[0].changes else "see what the plan advises"
    yield judged(
        "plan", "serving", "the models and adapters fit", plan.serving_fits, format_bytes(plan.need_bytes), available,
        f"onecard plan {fleet_file}: {_sure(plan)}", f"{change}; onecard plan {fleet_file}",
    )  # fmt: skip
    for run in plan.trainings:
        advised = run.advice[0] if run.advice else "see what the plan advises"
        yield judged(
            "plan", run.agent, "training fits alone", run.fits, f"{format_bytes(run.peak_bytes)} at its peak", available,
            f"onecard plan {fleet_file}", f"{advised}; onecard plan {fleet_file}",
        )  # fmt: skip


def _sure(plan: Plan) -> str:
    """How much of the need is exact, measured, fitted or assumed."""
    parts = {tag: plan.serving.bytes_tagged(tag) for tag in ("exact", "measured", "fitted", "assumed")}
    return ", ".join(f"{format_bytes(size)} {tag}" for tag, size in parts.items() if size)


def unplanned(fleet: Fleet, reason: str, fleet_file: str) -> Iterator[Check]:
    """The checks of a plan that could not be made."""
    yield unseen("plan", "serving", "the models and adapters fit", reason, "", f"onecard plan {fleet_file}")
    for agent, spec in fleet.agents.items():
        if spec.recipe is not None:
            yield unseen("plan", agent, "training fits alone", reason, "", f"onecard plan {fleet_file}")
