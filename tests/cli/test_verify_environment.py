"""Machine and plan as checks: what is seen on one machine is not said of another's card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onecard.catalog.cards import custom_card
from onecard.cli.doctor_records import Facts, Machine, Packages, Port, SeenGpu
from onecard.cli.model_shapes import shape_of
from onecard.cli.verify_environment import FleetCard, environment_checks, plan_checks, unplanned
from onecard.fleet.schema import Fleet
from onecard.planner.plan import plan

GPU = SeenGpu("nvidia", "NVIDIA A10G", "580.95", 24 * 10**9, 0, 24 * 10**9)
MACHINE = Machine(GPU, (), "nvidia", 64 * 10**9, 60 * 10**9, 0, 0, None)
PACKAGES = Packages(
    "3.11.7", {"torch": "2.13.0", "bitsandbytes": "0.50.2"}, {"torch": "2.13.0", "bitsandbytes": "0.50.2"},
    cuda="13.0", bitsandbytes_libraries=("cuda130",),
)  # fmt: skip
FACTS = Facts(MACHINE, PACKAGES, (), (), Port(8700, False), token=False)
CARD = FleetCard("A10G", described=False, elsewhere=None)


def outcomes(facts: Facts, card: FleetCard = CARD) -> dict[str, str]:
    return {check.subject: check.outcome for check in environment_checks(facts, card, "fleet.yaml")}


def test_a_sound_machine_passes() -> None:
    assert outcomes(FACTS) == dict.fromkeys(
        ("card", "driver", "torch", "bitsandbytes", "versions", "variables"), "pass"
    )


def test_another_machines_card_is_not_judged_by_this_one() -> None:
    found = outcomes(FACTS, replace(CARD, elsewhere="the fleet is for MI300X, and this machine has an A10G"))
    unseen = {name for name, outcome in found.items() if outcome == "could not be checked"}
    assert unseen == {"card", "driver", "torch", "bitsandbytes"}
    assert outcomes(FACTS, replace(CARD, described=True))["card"] == "not applicable"


@pytest.mark.parametrize(
    ("facts", "subject"),
    [
        (replace(FACTS, machine=replace(MACHINE, gpu=replace(GPU, driver="470.1"))), "driver"),
        (replace(FACTS, packages=replace(PACKAGES, cuda=None)), "torch"),
        (replace(FACTS, packages=replace(PACKAGES, bitsandbytes_libraries=("cuda118",))), "bitsandbytes"),
        (replace(FACTS, packages=replace(PACKAGES, unmet=(("torch", "2.0", ">=2.13"),))), "versions"),
    ],
)
def test_what_the_doctor_calls_a_problem_fails_with_its_command(facts: Facts, subject: str) -> None:
    failed = [check for check in environment_checks(facts, CARD, "fleet.yaml") if check.outcome == "fail"]
    assert subject in {check.subject for check in failed} and all(check.next_step for check in failed)


def test_without_a_card_there_is_no_driver_to_check() -> None:
    found = outcomes(
        replace(FACTS, machine=replace(MACHINE, gpu=None, gpu_on_bus=None), packages=replace(PACKAGES, cuda=None))
    )
    assert found["driver"] == "not applicable" and found["bitsandbytes"] == "not applicable"


def test_the_plan_is_held_against_the_card() -> None:
    fleet = Fleet.model_validate(
        {
            "name": "trial",
            "card": "auto",
            "models": {"base": {"id": "embedded:mini", "quantization": "nf4", "context": 128}},
            "agents": {"writer": {"model": "base", "adapter": "style@production", "recipe": {}}},
        }
    )
    shape = {"base": shape_of("embedded:mini", Path(), False, offline=True)}
    fits, tight = (list(plan_checks(plan(fleet, custom_card(gib, 100, None), shape), "fleet.yaml")) for gib in (8, 0.6))
    assert [check.outcome for check in fits] == ["pass", "pass"]
    assert [(check.subject, check.outcome) for check in tight] == [("serving", "fail"), ("writer", "fail")]
    assert all(check.next_step and "GiB" in check.seen for check in tight)
    assert {check.outcome for check in unplanned(fleet, "no such card", "fleet.yaml")} == {"could not be checked"}
