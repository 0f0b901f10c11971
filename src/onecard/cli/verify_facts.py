"""Reads what `onecard verify` judges: the machine, the plan, each agent's adapter in the store, and the suite's held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from onecard.cli.verify_adapter import RECORDED, AdapterSeen, Room, gib
from onecard.errors import OnecardError, UnknownName

if TYPE_CHECKING:
    from onecard.adapters.manifest import Verdict
    from onecard.adapters.store import Store
    from onecard.cli.doctor_records import Facts
    from onecard.fleet.loader import LoadedFleet
    from onecard.planner.plan import Plan

PORT = 8700  # the doctor looks at a port as well; it decides nothing here


@dataclass(frozen=True)
class MachineSeen:
    """The machine beside the fleet. `other_card` says why the fleet's card is not this machine's; None: it is.

    `plan` None: `plan_fault` says why there is none.
    """

    facts: Facts
    fleet_card: str
    other_card: str | None
    plan: Plan | None
    plan_fault: str = ""


def read_machine(loaded: LoadedFleet) -> MachineSeen:
    """Facts, card and plan of this machine; never raises for what a person can cause."""
    from onecard.cli.doctor_facts import read_facts
    from onecard.cli.plan import calibration_of, card_of, plan_of

    facts = read_facts(loaded, PORT)
    named = loaded.fleet.card
    fleet_card = named if isinstance(named, str) else named.name
    plan, fault = None, ""
    try:
        card = card_of(loaded.fleet)
        fleet_card = card.name
        plan = plan_of(loaded, calibration=calibration_of(card, None))
    except OnecardError as error:
        fault = error.problem
    return MachineSeen(facts, fleet_card, _other_card(loaded, facts, fleet_card), plan, fault)


def _other_card(loaded: LoadedFleet, facts: Facts, fleet_card: str) -> str | None:
    """Why the fleet's card is not here. Its own figures and `auto` mean this machine."""
    from onecard.catalog.cards import find_card
    from onecard.cli.doctor_fleet import card_here

    named = loaded.fleet.card
    if not isinstance(named, str) or named.strip().lower() == "auto":
        return None
    gpu = facts.machine.gpu
    if gpu is None:
        return f"the fleet is for {fleet_card}, and this machine has no card"
    here = card_here(facts.machine)
    try:
        same = here is not None and find_card(named).id == here.id
    except OnecardError:
        same = False
    return None if same else f"the fleet is for {fleet_card}, and this machine has {gpu.name}"


def read_adapter(loaded: LoadedFleet, agent: str) -> AdapterSeen:
    """What the store holds for an agent: what its reference names, or else its newest version, with every file hashed again."""
    from onecard.adapters.address import parse_reference
    from onecard.adapters.store import Store

    spec = loaded.agent(agent)
    seen = AdapterSeen(agent, spec, loaded.fleet.models[spec.model])
    if spec.adapter is None:
        return seen
    train = f"onecard train {loaded.file} --agent {agent}"
    try:
        name, _ = parse_reference(spec.adapter)
        return _read(loaded, Store(loaded.store_url), seen, name)
    except UnknownName:
        problem = f"nothing in {loaded.store_url} for {agent}/{spec.adapter}"
        return AdapterSeen(agent, spec, seen.model, problem=problem, next_step=train)
    except OnecardError as error:
        next_step = error.next_step or f"onecard adapters verify {agent}/{spec.adapter}"
        return AdapterSeen(agent, spec, seen.model, problem=error.problem, next_step=next_step)


def _read(loaded: LoadedFleet, store: Store, seen: AdapterSeen, name: str) -> AdapterSeen:
    """As `read_adapter`; UnknownName when the adapter has no version at all."""
    agent, reference = seen.agent, seen.spec.adapter or ""
    problem = ""
    try:
        stored = store.resolve(agent, reference)
    except UnknownName as error:
        versions = store.versions(agent, name)
        if not versions:
            raise
        stored, problem = versions[-1], error.problem
    verdict = store.verdict(stored)
    suite_digest, suite_fault = _suite_digest(loaded, agent, verdict)
    return AdapterSeen(
        agent=agent,
        spec=seen.spec,
        model=seen.model,
        stored=stored,
        problem=problem,
        resolved=not problem,
        differences=tuple(store.verify(agent, name, stored.version)),
        aliases=store.aliases(agent, name),
        log=tuple(store.log(agent, name)),
        verdict=verdict,
        suite_digest=suite_digest,
        suite_fault=suite_fault,
    )


def _suite_digest(loaded: LoadedFleet, agent: str, verdict: Verdict | None) -> tuple[str | None, str]:
    """The digest a verdict on the fleet's suite has now, of the rows that the verdict's own seed picks; or why it cannot be told."""
    from onecard.cli.evaluate_exam import exam_of
    from onecard.evaluation.gate import suite_digest

    if loaded.agent(agent).suite is None:
        return None, ""
    seed = verdict.summary.get("seed") if verdict else None
    try:
        exam = exam_of(loaded, agent, None, seed if type(seed) is int else 0)
    except OnecardError as error:
        return None, f"the suite cannot be read now: {error.problem}"
    return suite_digest(exam.suite, exam.presets, exam.questions), ""


def room_of(machine: MachineSeen, agent: str, training_gib: float | None) -> Room:
    """What the agent's training peak is held against."""
    from onecard.planner.speed import is_cpu

    plan = machine.plan
    run = next((run for run in plan.trainings if run.agent == agent), None) if plan else None
    return Room(
        limit_bytes=None if training_gib is None else gib(training_gib),
        card_bytes=plan.available_bytes if plan else None,
        card=machine.fleet_card,
        planned_bytes=run.peak_bytes if run else None,
        on_cpu=plan is not None and is_cpu(plan.card),
    )


def installed_versions() -> dict[str, str]:
    """Of the libraries a manifest records; what is not installed is left out."""
    found = {}
    for name in RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
