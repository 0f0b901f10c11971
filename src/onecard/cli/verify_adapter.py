"""An agent's adapter as checks: what the store holds, how its training went, what the gate said. Pure: facts in, checks out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecard.catalog.units import GIB, format_bytes
from onecard.cli.verify_records import Check, judged, not_asked, unseen

if TYPE_CHECKING:
    from onecard.adapters.aliases import Aliases
    from onecard.adapters.journal import LogEntry
    from onecard.adapters.manifest import CurvePoint, Manifest, TrainingRecord, Verdict
    from onecard.adapters.store import StoredVersion
    from onecard.fleet.schema import AgentSpec, ModelSpec

RECORDED = ("torch", "transformers", "peft", "bitsandbytes")
SHORT = 12  # figures of a digest that are shown
END_SHARE = 10  # the loss at either end of a run is the mean over a tenth of its steps


@dataclass(frozen=True)
class AdapterSeen:
    """What was read of one agent's adapter. `stored` None: there is no such version, `problem` says why.

    `differences`: what its files are not any more. `resolved`: whether the fleet's own reference names it. `suite_digest`: of the
    fleet's suite as it is now, `suite_fault` why it cannot be told.
    """

    agent: str
    spec: AgentSpec
    model: ModelSpec
    stored: StoredVersion | None = None
    problem: str = ""
    next_step: str = ""
    resolved: bool = False
    differences: tuple[str, ...] = ()
    aliases: Aliases | None = None
    log: tuple[LogEntry, ...] = ()
    verdict: Verdict | None = None
    suite_digest: str | None = None
    suite_fault: str = ""


@dataclass(frozen=True)
class Room:
    """What a training peak is held against, bytes. `limit_bytes` was asked for by hand; None: the card's memory.

    `card_bytes` is None where the fleet's card is another machine's. `planned_bytes` None: no plan.
    """

    limit_bytes: int | None
    card_bytes: int | None
    card: str
    planned_bytes: int | None
    on_cpu: bool


def adapter_checks(seen: AdapterSeen, fleet_file: str, *, elsewhere: str | None) -> Iterator[Check]:
    """Saved, unchanged, of this base, and the one the fleet names. `elsewhere`: why a missing one may lie on another machine."""
    agent, needed = seen.agent, f"a version that {seen.spec.adapter} names"
    if seen.spec.adapter is None:
        yield not_asked(
            "adapter", agent, "saved, and unchanged by its digest", "the agent is answered by the bare base"
        )
        return
    stored = seen.stored
    if stored is None and elsewhere is not None:
        yield unseen("adapter", agent, "saved, and unchanged by its digest", f"{seen.problem}; {elsewhere}", needed)
        return
    if stored is None:
        yield judged("adapter", agent, "saved", False, seen.problem, needed, "the store", seen.next_step)
        return
    named = f"{stored.address}, {len(stored.manifest.files)} files, digest {stored.digest[:SHORT]}"
    yield judged(
        "adapter", agent, "saved, and unchanged by its digest", not seen.differences,
        "; ".join(seen.differences) or "every file hashes to what was published", "the sha256 of every file as published",
        f"{named} in {stored.where}", f"onecard adapters rollback {agent}/{stored.name}, or train it again",
    )  # fmt: skip
    yield _alias(seen, stored, fleet_file)
    yield _of_this_base(seen, stored.manifest, fleet_file)


def _alias(seen: AdapterSeen, stored: StoredVersion, fleet_file: str) -> Check:
    """The fleet's reference names a version, and the store's log ends with the same aliases."""
    aliases = seen.aliases
    pointed = (
        ", ".join(f"{name} {aliases.get(name) or '-'}" for name in ("candidate", "production", "previous"))
        if aliases
        else "-"
    )
    last = seen.log[-1] if seen.log else None
    agrees = last is not None and last.aliases == aliases
    said = pointed if seen.resolved else f"{seen.problem}: {pointed}"
    if not agrees:
        said += "; the log's last line says otherwise" if last else "; the log is empty"
    evidence = f"{last.action} by {last.by} at {last.at}" if last else "log.jsonl"
    next_step = f"onecard evaluate {fleet_file} --agent {seen.agent} --promote" if not seen.resolved else (
        f"onecard adapters log {seen.agent}/{stored.name}"
    )  # fmt: skip
    return judged(
        "adapter", seen.agent, f"{seen.spec.adapter} names it, as the log says", seen.resolved and agrees, said,
        "aliases.json and log.jsonl agree", evidence, next_step,
    )  # fmt: skip


def _of_this_base(seen: AdapterSeen, manifest: Manifest, fleet_file: str) -> Check:
    """Trained on the weights it is served on."""
    base, model = manifest.base, seen.model
    same = base.id == model.id and base.quantization == model.quantization
    same = same and (model.quantization != "nf4" or base.double_quantization == model.double_quantization)
    return judged(
        "adapter", seen.agent, "trained on the base it is served on", same, f"{base.id} in {base.quantization}",
        f"{model.id} in {model.quantization}", f"manifest.json, base fingerprint {base.fingerprint[:SHORT]}",
        f"onecard train {fleet_file} --agent {seen.agent}",
    )  # fmt: skip


def training_checks(
    seen: AdapterSeen, room: Room, installed: dict[str, str], fleet_file: str, *, elsewhere: str | None
) -> Iterator[Check]:
    """Completed, loss fell, its peak within the room, versions and data written down: as the manifest says."""
    agent, again = seen.agent, f"onecard train {fleet_file} --agent {seen.agent}"
    if seen.spec.adapter is None:
        yield not_asked("training", agent, "training completed", "the agent is answered by the bare base")
        return
    if seen.stored is None:
        reason = f"{seen.problem}; {elsewhere}" if elsewhere else f"{seen.problem}: there is no manifest to read"
        yield unseen("training", agent, "training completed and the loss fell", reason, "", seen.next_step)
        return
    manifest, run = seen.stored.manifest, seen.stored.manifest.training
    if run is None:
        place = f": it is {manifest.origin.address}" if manifest.origin else ""
        yield unseen("training", agent, "training completed and the loss fell", f"not trained here{place}", "", again)
        return
    where = f"manifest.json of {seen.stored.version}: {run.rows:,} rows in {run.seconds:,.0f} s on {run.hardware}"
    whole = run.steps > 0 and len(run.curve) == run.steps and all(math.isfinite(point.loss) for point in run.curve)
    yield judged(
        "training", agent, "completed", whole, f"{len(run.curve)} of {run.steps} steps, {run.trained_tokens:,} trained tokens",
        "every step written down, every loss finite", where, again,
    )  # fmt: skip
    yield _loss(agent, run.curve, again)
    yield _peak(agent, run, room, again)
    yield _written_down(agent, run, manifest.data_sha256 or "", installed, again)


def _loss(agent: str, curve: Sequence[CurvePoint], again: str) -> Check:
    ends = loss_ends(curve)
    if ends is None:
        return unseen("training", agent, "the loss fell", f"{len(curve)} steps are too few to tell", "", again)
    first, last = ends
    return judged(
        "training", agent, "the loss fell", last < first, f"{first:.3f} to {last:.3f}", f"below {first:.3f} at the end",
        f"manifest.json: means over a tenth of {len(curve)} steps at either end", f"change recipe or data, then {again}",
    )  # fmt: skip


def loss_ends(curve: Sequence[CurvePoint]) -> tuple[float, float] | None:
    """Mean loss over the first and the last tenth of the steps; None for fewer than two steps, or a loss that is no number."""
    losses = [point.loss for point in curve]
    if len(losses) < 2 or not all(map(math.isfinite, losses)):
        return None
    share = max(1, len(losses) // END_SHARE)
    return math.fsum(losses[:share]) / share, math.fsum(losses[-share:]) / share


def _peak(agent: str, run: TrainingRecord, room: Room, again: str) -> Check:
    """The measured peak under the limit. A process's size on a CPU says nothing of a card, nor the other way round."""
    what, peak = "peak memory while training", format_bytes(run.peak_memory_bytes)
    planned = f", planned {format_bytes(room.planned_bytes)}" if room.planned_bytes is not None else ""
    limit = room.limit_bytes if room.limit_bytes is not None else room.card_bytes
    if run.peak_memory_bytes <= 0:
        return unseen("training", agent, what, "the manifest holds no peak", "", again)
    needed = (
        f"at most {format_bytes(limit)}{'' if room.limit_bytes is not None else f', {room.card} less the reserve'}"
        if limit
        else ""
    )
    of_a_card = run.memory_kind.startswith("cuda")
    if limit is None or (room.limit_bytes is None and of_a_card == room.on_cpu):
        reason = f"{peak} ({run.memory_kind}) was measured on {run.hardware}, which is not {room.card}"
        return unseen("training", agent, what, reason, needed, again)
    return judged(
        "training", agent, what, run.peak_memory_bytes <= limit, f"{peak}{planned}", needed,
        f"manifest.json: {run.memory_kind} on {run.hardware}", f"lower batch.rows or max_length in the recipe, then {again}",
    )  # fmt: skip


def _written_down(agent: str, run: TrainingRecord, data_sha256: str, installed: dict[str, str], again: str) -> Check:
    """Versions and data digest are in the manifest. That others are installed now is said, and is no failure."""
    held = run.versions
    missing = [name for name in RECORDED if name not in held]
    whole = not missing and len(data_sha256) == 64
    other = [
        f"{name} {installed[name]} now" for name in RECORDED if name in installed and installed[name] != held.get(name)
    ]
    seen = ", ".join(f"{name} {held[name]}" for name in RECORDED if name in held) or "none"
    seen += f" ({', '.join(other)})" if other and whole else ""
    needed = "the versions and the sha256 of the training rows"
    return judged(
        "training", agent, "versions and data written down", whole, f"{seen}; missing: {', '.join(missing)}" if missing else seen,
        needed, f"manifest.json: data sha256 {data_sha256[:SHORT] or 'none'}", again,
    )  # fmt: skip


def gate_checks(seen: AdapterSeen, fleet_file: str, *, elsewhere: str | None) -> Iterator[Check]:
    """A passing verdict of the agent's suite, bound to the digest that answers."""
    agent, what = seen.agent, "its suite was passed by these very files"
    evaluate = f"onecard evaluate {fleet_file} --agent {agent}"
    if seen.spec.adapter is None or seen.spec.suite is None:
        reason = "the fleet names no suite" if seen.spec.adapter else "the agent is answered by the bare base"
        yield not_asked("gate", agent, what, reason)
        return
    stored, verdict = seen.stored, seen.verdict
    if stored is None:
        yield unseen(
            "gate", agent, what, f"{seen.problem}; {elsewhere}" if elsewhere else seen.problem, "", seen.next_step
        )
        return
    forced = next(
        (e.reason for e in reversed(seen.log) if e.action == "promote" and e.version == stored.version and e.forced),
        None,
    )
    needed = f"a passing verdict on digest {stored.digest[:SHORT]}"
    if verdict is None:
        said = f"never evaluated; promoted by force: {forced}" if forced else "never evaluated"
        yield judged("gate", agent, what, False, said, needed, f"{stored.address}: no verdict", evaluate)
        return
    asked = verdict.summary.get("asked", "?")
    problem = _verdict_problem(seen, verdict, stored.digest)
    yield judged(
        "gate", agent, what, problem is None, problem or f"passed: {asked} answers, {len(verdict.summary.get('checks', ()))} demands",
        needed, f"verdict of {verdict.at}, suite {verdict.suite_digest[:SHORT]}" + (f"; {seen.suite_fault}" if seen.suite_fault else ""),
        evaluate,
    )  # fmt: skip


def _verdict_problem(seen: AdapterSeen, verdict: Verdict, digest: str) -> str | None:
    if verdict.digest != digest:
        return f"the verdict was given on {verdict.digest[:SHORT] or 'nothing'}"
    if not verdict.passed:
        return "not passed: " + ("; ".join(map(str, verdict.summary.get("failed", ()))) or "the report says why")
    if seen.suite_digest is not None and verdict.suite_digest != seen.suite_digest:
        return "passed another suite than the fleet's is now"
    return None


def gib(value: float) -> int:
    """GiB as bytes."""
    return round(value * GIB)
