"""What `onecard verify` says: checks with what was seen, what was needed, and the evidence. Pure.

Four outcomes, kept apart: a check that could not look is "could not be checked" with its reason, never "pass".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Criterion = Literal[
    "environment", "plan", "adapter", "training", "gate", "memory", "load", "service", "style", "requests", "deadline"
]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
# What is asked of a running service; the others look at files and at the machine.
OF_THE_SERVICE: tuple[Criterion, ...] = ("memory", "load", "service", "style", "requests", "deadline")

Outcome = Literal["pass", "fail", "not applicable", "could not be checked"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
BUSY_SHARE = 0.25  # of the cores: from here on a processor answers its neighbours as well as us


@dataclass(frozen=True)
class Check:
    """One success criterion held against what was seen. `subject` is the agent, the model, or what of the machine it is about.

    `seen` and `needed` are figures with their units in words; `evidence` says where `seen` comes from: a file, a digest, a version, or
    the request and its answer. `next_step` stands with every failure. For a check that could not look, `seen` is the reason.
    """

    criterion: Criterion
    subject: str
    what: str
    outcome: Outcome
    seen: str
    needed: str = ""
    evidence: str = ""
    next_step: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is checked: which criteria, of which agents, and within which limits.

    `training_gib` limits the training peak (None: the card's memory), `seconds` an answer of an agent without a deadline. `rows` held-out
    rows are asked per preset, and `prompts` of them again under `seeds` seeds each. `requests` bounds a measured load.
    """

    criteria: tuple[Criterion, ...] = CRITERIA
    agents: tuple[str, ...] = ()
    training_gib: float | None = None
    seconds: float = 30.0
    rows: int = 8
    prompts: int = 3
    seeds: int = 3
    requests: int = 240
    quick: bool = False

    @property
    def needs_service(self) -> bool:
        return any(criterion in OF_THE_SERVICE for criterion in self.criteria)


def judged(
    criterion: Criterion, subject: str, what: str, passed: bool, seen: str, needed: str, evidence: str, next_step: str
) -> Check:
    """A check that looked; the next step stands with a failure only."""
    outcome: Outcome = "pass" if passed else "fail"
    return Check(criterion, subject, what, outcome, seen, needed, evidence, "" if passed else next_step)


def unseen(criterion: Criterion, subject: str, what: str, reason: str, needed: str = "", next_step: str = "") -> Check:
    """A check that could not look, and why."""
    return Check(criterion, subject, what, "could not be checked", reason, needed, "", next_step)


def not_asked(criterion: Criterion, subject: str, what: str, reason: str) -> Check:
    """A criterion that this fleet does not have."""
    return Check(criterion, subject, what, "not applicable", reason)


@dataclass(frozen=True)
class Neighbours:
    """How many of a processor's cores others kept busy before the service was started, where the processor is what answers."""

    busy_cores: float
    cores: int

    @property
    def loud(self) -> bool:
        return self.busy_cores >= BUSY_SHARE * self.cores


def on_a_busy_machine(check: Check, neighbours: Neighbours | None) -> Check:
    """A time missed on a processor that others kept busy is no proof against the fleet; one that was kept is kept."""
    if check.outcome != "fail" or neighbours is None or not neighbours.loud:
        return check
    busy = f"others kept {neighbours.busy_cores:.1f} of {neighbours.cores} cores busy before it began"
    return replace(
        check,
        outcome="could not be checked",
        seen=f"{check.seen}; but {busy}",
        next_step="verify again on a quiet machine",
    )


def counts(checks: Iterable[Check]) -> dict[Outcome, int]:
    """How many checks ended how, every outcome named."""
    found = [check.outcome for check in checks]
    return {outcome: found.count(outcome) for outcome in OUTCOMES}


def exit_code(checks: Sequence[Check], *, strict: bool) -> int:
    """1 for a failure; `strict`: also for what could not be checked, and when nothing at all was seen to pass."""
    found = counts(checks)
    if found["fail"]:
        return 1
    return 1 if strict and (found["could not be checked"] or not found["pass"]) else 0


def conclusion(checks: Sequence[Check]) -> str:
    """The verdict in one sentence; "verified" only where everything was seen."""
    found = counts(checks)
    if found["fail"]:
        return f"{found['fail']} failed"
    if found["could not be checked"]:
        return f"nothing failed, but {found['could not be checked']} could not be checked: not verified as a whole"
    return "verified: every check was seen to hold" if found["pass"] else "nothing was checked"
