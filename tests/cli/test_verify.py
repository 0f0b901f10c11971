"""The verb on a small fleet with a really trained adapter: everything once over a real child, then faults one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from onecard.adapters.store import Store
from onecard.cli.evaluate import run_evaluation
from onecard.cli.main import main
from onecard.cli.serve import serve_in_background
from onecard.cli.train import run_training
from onecard.cli.verify_asking import Asking, http, malformed_checks, style_checks, who_answers
from onecard.cli.verify_load import deadline_checks
from onecard.cli.verify_records import Check, Wanted
from onecard.cli.verify_served import load_checks, named_checks
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import LoadedFleet, load_fleet
from onecard.serving.running import Running

ANSWERS = {"mutex": "A lock.", "queue": "A list.", "stack": "A pile.", "heap": "A tree.", "cache": "A copy."}
HELD_OUT = {"trie": "A tree.", "graph": "A net."}
LEARNS = {
    "added_tokens": ["<STYLE_TERSE>"], "lora": {"rank": 4, "alpha": 8, "dropout": 0}, "batch": {"rows": 5, "accumulate": 1},
    "optimizer": {"learning_rate": 1.0e-2, "warmup_ratio": 0}, "gradient_checkpointing": False, "epochs": 8, "max_length": 64,
}  # fmt: skip
FLEET: dict[str, Any] = {
    "name": "trial",
    "card": "auto",
    "models": {"base": {"id": "embedded:mini", "quantization": "nf4", "context": 64, "concurrency": 2}},
    "agents": {
        "writer": {
            "model": "base", "adapter": "style@production", "data": "train.jsonl", "recipe": LEARNS,
            "deadline": {"seconds": 100, "prompt_tokens": 10, "new_tokens": 4, "percentile": 50},
            "presets": {"terse": {"token": "<STYLE_TERSE>", "max_new_tokens": 24}},
            "suite": {"data": "test.jsonl", "rows": 2, "checks": [{"preset": "terse", "max_tokens": 20, "repetition": 0.9}]},
        }
    },
}  # fmt: skip


def rows(answers: dict[str, str]) -> str:
    lines = ({"prompt": f"What is a {term}?", "completion": said, "preset": "terse"} for term, said in answers.items())
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fleet, its data, and a store whose production was trained, judged and promoted."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    (folder / "train.jsonl").write_text(rows(ANSWERS))
    (folder / "test.jsonl").write_text(rows(HELD_OUT))
    loaded = load_fleet(write(folder))
    run_training(loaded, "writer", on_progress=lambda progress: None)
    assert run_evaluation(loaded, "writer", promote=True, out=folder / "results", against="none").promoted
    return folder


@pytest.fixture
def fleet(made: Path, tmp_path: Path) -> Path:
    """A copy of its own for every test that changes something."""
    shutil.copytree(made, tmp_path / "fleet")
    return tmp_path / "fleet" / "fleet.yaml"


@pytest.fixture(scope="module")
def running(made: Path) -> Iterator[Running]:
    with serve_in_background(load_fleet(made / "fleet.yaml")) as service:
        yield service


def write(folder: Path, **agent: Any) -> Path:
    """The fleet file with some of the agent's keys changed; None takes a key out."""
    writer = {key: value for key, value in {**FLEET["agents"]["writer"], **agent}.items() if value is not None}
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump({**FLEET, "agents": {"writer": writer}}))
    return file


def verified(capfd: pytest.CaptureFixture[str], fleet: Path, *options: str) -> tuple[int, list[dict[str, str]]]:
    code = main(["verify", str(fleet), "--json", *options])
    return code, json.loads(capfd.readouterr().out)["checks"]


def only(*criteria: str) -> list[str]:
    return [word for criterion in criteria for word in ("--only", criterion)]


FILES = only("adapter", "training", "gate")


def test_everything_is_seen_to_hold_and_written_down(fleet: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = fleet.parent / "verify.json"
    criteria = only("plan", "adapter", "training", "gate", "load", "service", "style", "requests", "deadline")
    assert main(["verify", str(fleet), "--out", str(out), "--rows", "2", *criteria]) == 0
    shown, record = capfd.readouterr(), json.loads(out.read_text())
    assert record["passed"] and record["complete"] and record["kind"] == "verification"
    assert record["where"]["versions"]["torch"] and record["fleet_digest"] == load_fleet(fleet).digest
    checks = [Check(**check) for check in record["checks"]]
    assert {check.outcome for check in checks} == {"pass"}, [c for c in checks if c.outcome != "pass"]
    whats = {(check.criterion, check.what) for check in checks}
    for wanted in (
        ("service", "stops cleanly and leaves nothing behind"), ("load", "loaded in nf4"), ("style", "the same style again"),
        ("style", "POST /generate obeys the style, by this adapter"), ("training", "the loss fell"),
        ("deadline", "deadline kept under load"),
    ):  # fmt: skip
        assert wanted in whats
    assert "every check was seen to hold" in shown.out and "starting the service" in shown.err


def test_an_altered_file_fails_by_its_digest(fleet: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = next(fleet.parent.rglob("adapter_model.safetensors"))
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, checks = verified(capfd, fleet, *FILES)
    failed = [check for check in checks if check["outcome"] == "fail"]
    assert code == 1 and [check["what"] for check in failed] == ["saved, and unchanged by its digest"]
    assert "adapter_model.safetensors" in failed[0]["seen"] and failed[0]["next_step"]


def test_an_alias_that_points_nowhere_fails(fleet: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, checks = verified(capfd, write(fleet.parent, adapter="style@previous"), *FILES)
    failed = [check for check in checks if check["outcome"] == "fail"]
    assert code == 1 and [check["subject"] for check in failed] == ["writer"]
    assert failed[0]["what"].startswith("style@previous names it")


def test_a_suite_that_was_changed_since_is_not_a_passed_gate(fleet: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fleet.parent / "test.jsonl").write_text(rows({**HELD_OUT, "list": "A row."}))
    code, checks = verified(capfd, fleet, *only("gate"))
    assert code == 1 and "another suite" in checks[0]["seen"] and "onecard evaluate" in checks[0]["next_step"]


def test_a_training_peak_over_the_stated_limit_fails(fleet: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, checks = verified(capfd, fleet, *only("training"), "--training-gib", "0.01")
    assert code == 1 and [c["what"] for c in checks if c["outcome"] == "fail"] == ["peak memory while training"]


def test_a_service_that_cannot_start_fails_and_leaves_the_rest_unseen(
    fleet: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(fleet.parent / "modelstore")
    code, checks = verified(capfd, fleet, *only("service", "style", "requests", "load", "deadline"))
    assert code == 1 and [c["what"] for c in checks if c["outcome"] == "fail"] == ["serves on a free loopback port"]
    assert checks[0]["next_step"] == f"onecard train {fleet} --agent writer"
    assert {c["outcome"] for c in checks[1:]} == {"could not be checked"} and len(checks) >= 6


def test_the_checklist_of_another_card_says_what_it_cannot_see(capfd: pytest.CaptureFixture[str]) -> None:
    fleet = examples_folder() / "qa-mi300x.yaml"
    code, checks = verified(capfd, fleet)
    assert code == 0
    assert {c["outcome"] for c in checks if c["criterion"] == "plan"} == {"pass"}
    unseen = [c for c in checks if c["outcome"] == "could not be checked"]
    assert {c["criterion"] for c in unseen} >= {
        "environment",
        "load",
        "service",
        "style",
        "requests",
        "deadline",
        "memory",
    }
    assert all("MI300X" in c["seen"] for c in unseen)
    assert main(["verify", str(fleet), "--strict"]) == 1
    assert "not verified as a whole" in capfd.readouterr().out


@pytest.mark.parametrize("options", [["--agent", "nobody"], ["--only", "nothing"], ["--rows", "0"]])
def test_wrong_use_is_said(fleet: Path, capfd: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert main(["verify", str(fleet), *options]) == 2
    assert "Traceback" not in capfd.readouterr().err


def asking(running: Running, loaded: LoadedFleet, digest: str | None = None, **wanted: Any) -> Asking:
    stored = Store(loaded.store_url).resolve("writer", "style@production")
    return Asking(
        running.url, loaded, {"writer": digest or stored.digest}, Wanted(rows=2, prompts=1, seeds=2, **wanted)
    )


def outcomes(checks: Iterator[Check]) -> dict[str, str]:
    return {check.what: check.outcome for check in checks}


def test_a_length_that_is_not_kept_fails_over_http(running: Running, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "strict")
    suite = {"data": "test.jsonl", "checks": [{"preset": "terse", "min_tokens": 30}]}
    loaded = load_fleet(write(tmp_path / "strict", suite=suite, deadline=None))
    found = outcomes(style_checks(asking(running, loaded, seconds=1e-6), "writer", lambda step: None))
    assert found == {
        "held-out rows: have at least 30 tokens": "fail",
        "no repetition": "pass",
        "answered in time, end to end": "fail",
        "the same style again": "fail",
        "POST /generate obeys the style, by this adapter": "fail",
    }


def test_what_is_demanded_beside_rivals_is_left_to_the_gate(running: Running, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "compared")
    (tmp_path / "compared" / "other.jsonl").write_text(rows({"mouse": "A hand."}))
    rivals = {"production": 0.1, "base": 0.1}
    checks = [
        {"preset": "terse", "max_tokens": 24, "repetition": 0.9, "no_worse_than": rivals},
        {"preset": "terse", "overlap": 0.0, "better_than": "base"},
    ]
    suite = {"data": "test.jsonl", "checks": checks, "regressions": [{"data": "other.jsonl"}]}
    loaded = load_fleet(write(tmp_path / "compared", suite=suite))
    found = list(style_checks(asking(running, loaded), "writer", lambda step: None))
    assert {check.outcome for check in found} == {"pass", "not applicable"}, found
    assert "not compared here with production and base" in found[0].evidence and found[0].outcome == "pass"
    said = {check.what: check.seen for check in found if check.outcome == "not applicable"}
    assert said == {
        "held-out rows: words shared with the reference": "not compared here with base: the gate does that",
        "not unlearned: other.jsonl": "not compared here with production and base: the gate does that",
    }


def test_few_rows_that_do_not_keep_the_suite_are_followed_by_all_of_them(
    running: Running, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "strict")
    suite = {"data": "test.jsonl", "rows": 2, "checks": [{"preset": "terse", "min_tokens": 30}]}
    asked = asking(running, load_fleet(write(tmp_path / "strict", suite=suite)))
    steps: list[str] = []
    found = next(style_checks(replace(asked, wanted=Wanted(rows=1, prompts=1, seeds=1)), "writer", steps.append))
    assert (
        found.outcome == "fail"
        and found.seen.startswith("0 of 2 answers")
        and "rows of the suite" not in found.evidence
    )
    assert steps == ["asking writer 1 held-out questions", "asking writer all 2: so few do not settle it"]


def test_a_service_that_died_is_a_failure_and_not_a_gap(running: Running, made: Path) -> None:
    loaded = load_fleet(made / "fleet.yaml")
    gone = replace(asking(running, loaded), url="http://127.0.0.1:9")
    checks = [*style_checks(gone, "writer", lambda step: None), *deadline_checks(gone, None, None, ("writer",))]
    assert {check.outcome for check in checks} == {"fail"} and all(check.next_step for check in checks)


def test_another_adapter_than_the_stores_is_noticed(running: Running, made: Path) -> None:
    loaded = load_fleet(made / "fleet.yaml")
    found = outcomes(style_checks(asking(running, loaded, digest="e" * 64), "writer", lambda step: None))
    assert found["POST /generate obeys the style, by this adapter"] == "fail"
    with http(running.url) as client:
        named = {"writer": who_answers(client, "writer"), "nobody": who_answers(client, "nobody")}
    checks = list(named_checks(named, {"writer": "e" * 64}, "fleet.yaml"))
    assert [check.outcome for check in checks] == ["fail", "fail"] and "404" in checks[1].seen


def test_weights_that_are_larger_than_their_quantization_fail(running: Running, made: Path) -> None:
    from onecard.cli.plan import plan_of

    loaded = load_fleet(made / "fleet.yaml")
    health = running.service.health()
    grown = [
        p.model_copy(update={"bytes": 3 * p.bytes}) if p.name == "base weights" else p for p in health.memory.parts
    ]
    lying = health.model_copy(update={"memory": health.memory.model_copy(update={"parts": tuple(grown)})})
    plan = plan_of(loaded)
    told = [next(load_checks(seen, loaded.fleet, plan)).outcome for seen in (health, lying)]
    assert told == ["pass", "fail"]
    assert next(load_checks(health, loaded.fleet, None)).outcome == "could not be checked"


def test_a_service_that_answers_wrong_requests_is_found_out(made: Path) -> None:
    """A server that takes everything fails every line but those whose refusal is right."""
    import httpx

    loaded = load_fleet(made / "fleet.yaml")
    client = httpx.Client(
        base_url="http://x", transport=httpx.MockTransport(lambda request: httpx.Response(200, json={}))
    )
    checks = list(malformed_checks(client, loaded))
    assert {check.outcome for check in checks[:-1]} == {"fail"} and checks[-1].outcome == "pass"


def test_a_deadline_that_is_missed_fails_and_a_rare_percentile_cannot_be_checked(
    running: Running, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "late")
    shape = {"prompt_tokens": 10, "new_tokens": 4}
    late = load_fleet(write(tmp_path / "late", deadline={"seconds": 1e-3, "percentile": 50, **shape}))
    found = list(deadline_checks(asking(running, late), None, None, ("writer",)))
    assert [check.outcome for check in found] == ["fail"] and "p50" in found[0].seen
    rare = load_fleet(write(tmp_path / "late", deadline={"seconds": 9, "percentile": 99.9, **shape}))
    found = list(deadline_checks(asking(running, rare), None, None, ("writer",)))
    assert found[0].outcome == "could not be checked" and "1000 answers" in found[0].seen
    found = list(deadline_checks(asking(running, late, quick=True), None, None, ("writer",)))
    assert found[0].outcome == "could not be checked" and "--quick" in found[0].seen
