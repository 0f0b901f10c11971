"""An adapter's facts as checks: every fault of store, training and gate shows in the check that is about it, and in no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onecard.adapters.aliases import Aliases
from onecard.adapters.journal import LogEntry
from onecard.adapters.manifest import BaseModelRecord, CurvePoint, Manifest, OriginRecord, TrainingRecord, Verdict
from onecard.adapters.store import StoredVersion
from onecard.catalog.units import GIB
from onecard.cli.verify_adapter import AdapterSeen, Room, adapter_checks, gate_checks, loss_ends, training_checks
from onecard.cli.verify_records import Check
from onecard.fleet.schema import AgentSpec, ModelSpec

DIGEST = "d" * 64
SUITE = {"data": "test.jsonl", "checks": [{"preset": "default", "max_tokens": 9}]}
SPEC = AgentSpec.model_validate({"model": "base", "adapter": "style@production", "suite": SUITE})
MODEL = ModelSpec.model_validate({"id": "embedded:mini", "quantization": "nf4"})
VERSIONS = {"torch": "2.13.0", "transformers": "5.19.0", "peft": "0.21.2", "bitsandbytes": "0.50.2"}
ROOM = Room(limit_bytes=None, card_bytes=12 * GIB, card="cpu", planned_bytes=2 * GIB, on_cpu=True)


def run(losses: list[float], **changes: Any) -> TrainingRecord:
    curve = tuple(CurvePoint(step=n, loss=loss, learning_rate=1e-4) for n, loss in enumerate(losses, 1))
    facts: dict[str, Any] = {
        "rows": 10, "trained_tokens": 100, "steps": len(losses), "seconds": 1, "tokens_s": 1, "peak_memory_bytes": GIB,
        "memory_kind": "process-rss", "curve": curve, "hardware": "a processor", "versions": VERSIONS,
    }  # fmt: skip
    return TrainingRecord(**{**facts, **changes})


def manifest(training: TrainingRecord | None = None, **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "agent": "writer", "name": "style", "version": "v0001", "rank": 2, "alpha": 4, "targets": ("q_proj",),
        "base": BaseModelRecord(id="embedded:mini", fingerprint="f" * 64, quantization="nf4"),
        "chat_template_sha256": "c" * 64, "stop_ids": (1,), "recipe": {}, "data_sha256": "a" * 64, "digest": DIGEST,
        "training": training or run([2.0, 1.0, 0.5]),
    }  # fmt: skip
    return Manifest(**{**facts, **changes})


def seen(found: Manifest | None = None, **changes: Any) -> AdapterSeen:
    aliases = Aliases(candidate="v0001", production="v0001")
    entry = LogEntry(at="2026-11-21", by="me", action="promote", version="v0001", digest=DIGEST, aliases=aliases)
    whole = AdapterSeen(
        agent="writer", spec=SPEC, model=MODEL, resolved=True, aliases=aliases, log=(entry,), suite_digest="s" * 64,
        stored=StoredVersion("writer", "style", "v0001", DIGEST, Path("store"), found or manifest()),
        verdict=Verdict(passed=True, digest=DIGEST, at="2026-11-21", suite_digest="s" * 64, summary={"asked": 9}),
    )  # fmt: skip
    return replace(whole, **changes)


def everything(facts: AdapterSeen, room: Room = ROOM, elsewhere: str | None = None) -> list[Check]:
    return [
        *adapter_checks(facts, "fleet.yaml", elsewhere=elsewhere),
        *training_checks(facts, room, VERSIONS, "fleet.yaml", elsewhere=elsewhere),
        *gate_checks(facts, "fleet.yaml", elsewhere=elsewhere),
    ]


def test_a_sound_adapter_passes_everything() -> None:
    found = everything(seen())
    assert [check.outcome for check in found] == ["pass"] * 8
    assert all(check.evidence and check.needed for check in found)


@pytest.mark.parametrize(
    ("facts", "what", "words"),
    [
        (seen(differences=("adapter_model.safetensors: sha256 is 1",)), "saved, and unchanged by its digest", "sha256 is"),
        (seen(resolved=False, problem="production names nothing"), "style@production names it", "names nothing"),
        (seen(aliases=Aliases(candidate="v0001")), "style@production names it", "the log's last line says otherwise"),
        (seen(log=()), "style@production names it", "the log is empty"),
        (
            seen(manifest(base=BaseModelRecord(id="other/base", fingerprint="f" * 64, quantization="nf4"))),
            "trained on the base it is served on", "other/base",
        ),
        (
            seen(manifest(base=BaseModelRecord(id="embedded:mini", fingerprint="f" * 64, quantization="none"))),
            "trained on the base it is served on", "in none",
        ),
        (seen(manifest(run([2.0, 1.0], steps=5))), "completed", "2 of 5 steps"),
        (seen(manifest(run([1.0, 1.5, 2.0]))), "the loss fell", "1.000 to 2.000"),
        (seen(manifest(run([1.0, 1.0]))), "the loss fell", "1.000 to 1.000"),
        (seen(manifest(run([2.0, 1.0], peak_memory_bytes=13 * GIB))), "peak memory while training", "13.00 GiB, planned 2.00"),
        (seen(manifest(run([2.0, 1.0], versions={"torch": "2"}))), "versions and data written down", "missing: transformers"),
        (seen(verdict=None), "its suite was passed by these very files", "never evaluated"),
        (seen(verdict=Verdict(passed=False, digest=DIGEST, at="", suite_digest="s" * 64, summary={"failed": ["too long"]})),
         "its suite was passed by these very files", "not passed: too long"),
        (seen(verdict=Verdict(passed=True, digest="e" * 64, at="", suite_digest="s" * 64, summary={})),
         "its suite was passed by these very files", "given on eeee"),
        (seen(suite_digest="t" * 64), "its suite was passed by these very files", "another suite"),
    ],
)  # fmt: skip
def test_a_fault_fails_its_own_check_and_no_other(facts: AdapterSeen, what: str, words: str) -> None:
    failed = [check for check in everything(facts) if check.outcome != "pass"]
    assert [check.what.startswith(what) for check in failed] == [True], [check.what for check in failed]
    assert failed[0].outcome == "fail" and words in failed[0].seen and failed[0].next_step


def test_the_training_of_an_adapter_made_elsewhere_cannot_be_checked() -> None:
    origin = OriginRecord(address="the folder my-lora", trained_here=False)
    found = everything(seen(manifest().model_copy(update={"training": None, "data_sha256": None, "origin": origin})))
    unseen = [check for check in found if check.outcome != "pass"]
    assert [(check.criterion, check.outcome) for check in unseen] == [("training", "could not be checked")]
    assert "not trained here: it is the folder my-lora" in unseen[0].seen and len(found) == 5


def test_a_forced_promotion_is_not_a_passed_gate() -> None:
    forced = seen().log[0].model_copy(update={"forced": True, "reason": "the demo is tonight"})
    check = next(gate_checks(seen(verdict=None, log=(forced,)), "fleet.yaml", elsewhere=None))
    assert check.outcome == "fail" and "the demo is tonight" in check.seen


def test_a_missing_adapter_fails_here_and_cannot_be_checked_on_another_machine() -> None:
    missing = AdapterSeen("writer", SPEC, MODEL, problem="nothing in the store", next_step="onecard train")
    here = everything(missing)
    assert [check.outcome for check in here] == ["fail", "could not be checked", "could not be checked"]
    assert here[0].next_step == "onecard train"
    there = everything(missing, elsewhere="no such card here")
    assert {check.outcome for check in there} == {"could not be checked"}
    assert all("no such card here" in check.seen for check in there)


def test_an_agent_of_the_bare_base_has_nothing_to_check() -> None:
    bare = AdapterSeen("writer", AgentSpec(model="base"), MODEL)
    assert {check.outcome for check in everything(bare)} == {"not applicable"}


@pytest.mark.parametrize(
    ("room", "kind", "outcome"),
    [
        (replace(ROOM, limit_bytes=GIB // 2), "process-rss", "fail"),
        (replace(ROOM, limit_bytes=2 * GIB), "process-rss", "pass"),
        (replace(ROOM, on_cpu=False), "process-rss", "could not be checked"),
        (replace(ROOM, on_cpu=False), "cuda-allocated", "pass"),
        (ROOM, "cuda-allocated", "could not be checked"),
        (replace(ROOM, card_bytes=None), "cuda-allocated", "could not be checked"),
        (replace(ROOM, limit_bytes=12 * GIB, on_cpu=False), "cuda-allocated", "pass"),
    ],
)
def test_a_peak_is_held_against_memory_of_its_own_kind(room: Room, kind: str, outcome: str) -> None:
    facts = seen(manifest(run([2.0, 1.0], memory_kind=kind)))
    peak = next(check for check in everything(facts, room) if check.what.startswith("peak"))
    assert peak.outcome == outcome


def test_the_loss_is_compared_over_a_tenth_of_the_run_at_either_end() -> None:
    steps = [CurvePoint(step=n, loss=loss, learning_rate=0) for n, loss in enumerate([3.0, 1.0, *[9.0] * 16, 2.0, 0.0])]
    assert loss_ends(steps) == (2.0, 1.0)
    assert loss_ends(steps[:1]) is None
    assert loss_ends([steps[0], steps[0].model_copy(update={"loss": float("nan")})]) is None
