"""The story when it goes wrong: Ctrl-C between two checks ends the child, and a start that fails is a failure whatever was asked."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from onecard.cli.verify_records import Check, Wanted
from onecard.cli.verify_run import run_verification
from onecard.errors import FleetError
from onecard.fleet.loader import LoadedFleet, load_fleet

FLEET = """
name: bare
card: {vram_gib: 8, bandwidth_gbs: 100}
models: {base: {id: "embedded:mini", context: 64}}
agents: {teller: {model: base}}
"""
CHILD = """#!/bin/sh
echo $$ > "$0.pid"
%s
echo '{"url": "http://127.0.0.1:9", "status": "ok"}'
sleep 300 &
wait
"""


@pytest.fixture
def fleet(tmp_path: Path) -> LoadedFleet:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    return load_fleet(file)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A shell script in the child's place; it writes its process id beside itself."""

    def make(line: str = "") -> Path:
        script = tmp_path / "python"
        script.write_text(CHILD % line)
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return script.with_name("python.pid")

    return make


def test_ctrl_c_between_two_checks_ends_the_child(fleet: LoadedFleet, child) -> None:
    told, pid = [], child()

    def interrupt(check: Check) -> None:
        told.append(check)
        assert psutil.pid_exists(int(pid.read_text()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_verification(fleet, Wanted(criteria=("service",)), interrupt)
    assert len(told) == 1
    assert not psutil.pid_exists(int(pid.read_text()))


@pytest.mark.parametrize("criterion", ["style", "memory", "service"])
def test_a_service_that_does_not_start_is_a_failure_whatever_was_asked_of_it(
    fleet: LoadedFleet, child, criterion: str
) -> None:
    child("echo 'error: no weights' >&2; echo '  next: onecard fetch all' >&2; exit 2")
    checks = run_verification(fleet, Wanted(criteria=(criterion,)))
    failed = [check for check in checks if check.outcome == "fail"]
    assert [check.criterion for check in failed] == [criterion]
    assert "no weights" in failed[0].seen and failed[0].next_step == "onecard fetch all"
    assert {check.outcome for check in checks} == {"fail", "could not be checked"}


def test_only_the_wanted_criteria_come_and_an_unknown_agent_is_refused(fleet: LoadedFleet) -> None:
    checks = run_verification(fleet, Wanted(criteria=("plan", "gate")))
    assert {check.criterion for check in checks} == {"plan", "gate"}
    with pytest.raises(FleetError, match="tellre"):
        run_verification(fleet, Wanted(agents=("tellre",)))
