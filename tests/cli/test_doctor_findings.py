"""Judgement on made-up machines: what a real one here cannot be. Every finding that is no ok has a reason and a command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onecard.catalog.units import GIB
from onecard.cli.doctor_findings import diagnose, worst
from onecard.cli.doctor_findings_machine import with_segments
from onecard.cli.doctor_findings_versions import install
from onecard.cli.doctor_records import (
    Calibrated,
    ColdStart,
    Facts,
    Finding,
    FleetFacts,
    Machine,
    MemoryNeed,
    NeededModel,
    Packages,
    Place,
    Port,
    Process,
    SeenGpu,
    Service,
)

PINS = {"click": "8.5.1", "torch": "2.13.0", "transformers": "5.19.0", "bitsandbytes": "0.50.2"}
LIBRARIES = ("cpu", "cuda118", "cuda128", "rocm70", "rocm714")
CARD = SeenGpu("nvidia", "NVIDIA GeForce RTX 3090", "580.95.05", 24 * GIB, GIB // 4, 23 * GIB)
AMD = SeenGpu("amd", "AMD Instinct MI300X", "6.10.5", 192 * GIB, 0, 192 * GIB)
MODEL = NeededModel("base", "org/model", Path("/models/a b"), largest_file_bytes=5 * GIB, weights_bytes=14 * GIB)
FLEET = FleetFacts(Path("fleet.yaml"), "small", "d", (MODEL,), 4, GIB, MemoryNeed("RTX 3090", 8 * GIB, 20 * GIB, True))
HUB = Place("models", Path("/cache/hub"), "HF_HOME", 100 * GIB, 200 * GIB, "1")


def facts(**changed: Any) -> Facts:
    """A sound machine with a card, except for what is changed: parts by name, or fields of machine and packages."""
    machine = Machine(CARD, (), "nvidia", 64 * GIB, 60 * GIB, 0, 0, (20_000, 20_000))
    packages = Packages("3.11.7", PINS, dict(PINS), cuda="12.8", bitsandbytes_libraries=LIBRARIES)
    for name in list(changed):
        if hasattr(machine, name):
            machine = replace(machine, **{name: changed.pop(name)})
        elif hasattr(packages, name):
            packages = replace(packages, **{name: changed.pop(name)})
    made = Facts(machine, packages, (HUB,), (), Port(8700, False), token=True, fleet=FLEET)
    return replace(made, **changed)


def only(found: tuple[Finding, ...], subject: str) -> Finding:
    """The one finding about a subject that is not ok."""
    (one,) = (finding for finding in found if finding.subject == subject and finding.severity != "ok")
    assert one.why and one.mend
    return one


def test_a_sound_machine_is_all_ok() -> None:
    found = diagnose(facts())
    assert worst(found) == "ok", [finding for finding in found if finding.severity != "ok"]
    assert {finding.subject for finding in found} >= {
        "card",
        "driver",
        "torch",
        "bitsandbytes",
        "memory held",
        "memory",
    }


def test_problems_come_first_then_warnings() -> None:
    found = diagnose(facts(open_files=(100, 100), gpu_faults=("nvidia-smi failed",), gpu=None))
    order = [("problem", "warning", "ok").index(finding.severity) for finding in found]
    assert order == sorted(order) and {0, 1, 2} == set(order)


@pytest.mark.parametrize(
    ("cuda", "driver", "fine"),
    [("12.8", "525.60.13", True), ("12.8", "470.199.02", False), ("13.0", "570.86.15", False), ("13.0", "580.65.06", True)],
)  # fmt: skip
def test_the_driver_must_carry_torchs_cuda(cuda: str, driver: str, fine: bool) -> None:
    libraries = ("cuda128", "cuda130")
    found = diagnose(facts(gpu=replace(CARD, driver=driver), cuda=cuda, bitsandbytes_libraries=libraries))
    assert (worst(found) == "ok") is fine
    if not fine:
        assert only(found, "driver").rights


@pytest.mark.parametrize(("vendor", "tool"), [("nvidia", "nvidia-smi"), ("amd", "rocm-smi")])
def test_a_card_without_a_driver(vendor: str, tool: str) -> None:
    one = only(diagnose(facts(gpu=None, gpu_on_bus=vendor)), "driver")
    assert one.severity == "problem" and tool in one.what and one.rights


def test_torch_of_the_other_maker() -> None:
    assert "ROCm" in only(diagnose(facts(gpu=AMD)), "torch").why
    rocm = facts(gpu=AMD, cuda=None, rocm="7.1.2")
    assert worst(diagnose(rocm)) == "ok"
    assert "built for ROCm" in only(diagnose(replace(rocm, machine=replace(rocm.machine, gpu=CARD))), "torch").what


@pytest.mark.parametrize(
    ("built", "variable", "fine"),
    [
        ({"cuda": "12.4"}, {}, True),  # 12.8 serves for it
        ({"cuda": "13.0"}, {}, False),
        ({"cuda": "12.8"}, {"BNB_CUDA_VERSION": "999"}, False),
        ({"cuda": "13.0"}, {"BNB_CUDA_VERSION": "128"}, True),
        ({"cuda": None, "rocm": "7.2.0", "gpu": AMD}, {}, True),
        ({"cuda": None, "rocm": "6.4.0", "gpu": AMD}, {}, False),
    ],
)
def test_bitsandbytes_takes_a_library_of_the_same_major_version(
    built: dict[str, Any], variable: dict[str, str], fine: bool
) -> None:
    found = diagnose(facts(environment=variable, **built))
    assert (worst(found) == "ok") is fine
    if not fine:
        assert only(found, "bitsandbytes").severity == "problem"


def test_missing_and_other_versions() -> None:
    without = {name: version for name, version in PINS.items() if name != "transformers"}
    one = only(diagnose(facts(installed=without)), "versions")
    assert (one.severity, one.mend) == ("problem", "pip install 'transformers==5.19.0'")
    assert only(diagnose(facts(installed=without, fleet=None)), "versions").severity == "warning"
    one = only(diagnose(facts(installed={"click": "8.5.1"})), "versions")
    assert one.mend == "pip install torch==2.13.0 && pip install 'transformers==5.19.0' 'bitsandbytes==0.50.2'"
    assert worst(diagnose(facts(installed={"click": "8.5.1"}, fleet=None))) == "ok"
    one = only(diagnose(facts(installed=PINS | {"transformers": "5.18.2", "torch": "2.13.0+cu128"})), "versions")
    assert (one.severity, one.what) == ("warning", "transformers 5.18.2 (older than 5.19.0)")
    assert only(diagnose(facts(python="3.16.0")), "versions").severity == "warning"


def test_torch_is_installed_before_all_others() -> None:
    packages = Packages("3.11", PINS, {})
    assert install(packages, {"click", "torch"}) == "pip install torch==2.13.0 && pip install 'click==8.5.1'"


def test_memory_that_others_hold() -> None:
    ours, other = Process(1, "onecard serve", 8 * GIB), Process(2, "Xorg", 2 * GIB, own=False)
    held = replace(CARD, used_bytes=10 * GIB, free_bytes=13 * GIB, processes=(ours, other))
    served = Port(8700, True, ours, Service(True, ("org/model",), fleet="small", fleet_digest="d"))
    one = only(diagnose(facts(gpu=held, port=served)), "memory held")
    assert "2.00 GiB of the card is held by Xorg (pid 2, 2.00 GiB)" in one.what
    assert (one.mend, one.rights) == ("kill 2", True)
    alone = replace(held, processes=(ours,))
    assert worst(diagnose(facts(gpu=alone, port=served))) == "ok"
    unnamed = only(diagnose(facts(gpu=replace(held, processes=()))), "memory held")
    assert "does not name" in unnamed.what and unnamed.rights


@pytest.mark.parametrize(
    ("said", "mended"),
    [
        ("expandable_segments:False", "expandable_segments:True"),
        ("max_split_size_mb:64", "expandable_segments:True,max_split_size_mb:64"),
        ("backend:cudaMallocAsync", "expandable_segments:True"),
        ("", "expandable_segments:True"),
    ],
)
def test_allocator_settings(said: str, mended: str) -> None:
    assert with_segments(said) == mended
    one = only(diagnose(facts(environment={"PYTORCH_ALLOC_CONF": said})), "variables")
    assert (one.severity, one.mend) == ("warning", f"export PYTORCH_ALLOC_CONF='{mended}'")
    assert worst(diagnose(facts(environment={"PYTORCH_ALLOC_CONF": mended}))) == "ok"
    assert worst(diagnose(facts(environment={"PYTORCH_ALLOC_CONF": said}, gpu=None, gpu_on_bus=None))) == "ok"


def test_what_makes_it_slow() -> None:
    assert "CUDA_LAUNCH_BLOCKING" in only(diagnose(facts(environment={"CUDA_LAUNCH_BLOCKING": "1"})), "variables").mend
    assert worst(diagnose(facts(environment={"CUDA_LAUNCH_BLOCKING": "0"}))) == "ok"


@pytest.mark.parametrize("swap", [0, 8 * GIB])
def test_main_memory_against_the_largest_file(swap: int) -> None:
    one = only(diagnose(facts(ram_available_bytes=3 * GIB, swap_bytes=swap, swap_free_bytes=swap)), "main memory")
    assert one.severity == "warning" and one.rights and "5.00 GiB" in one.what
    assert ("no swap" in one.what) is (swap == 0)
    assert worst(diagnose(facts(ram_available_bytes=3 * GIB, gpu=None, gpu_on_bus=None))) == "ok"


def test_a_full_disk_and_one_too_small_for_the_fleet() -> None:
    full = replace(HUB, free_bytes=GIB // 8)
    assert only(diagnose(facts(places=(full,))), "disk").severity == "problem"
    missing = replace(FLEET, models=(replace(MODEL, folder=None, fault="not here", missing_bytes=120 * GIB),))
    one = only(diagnose(facts(fleet=missing)), "disk")
    assert "120.00 GiB more" in one.what and "21.00 GiB too little" in one.why and "121GiB" in one.mend


def test_a_full_volume_is_told_once_with_all_that_is_on_it() -> None:
    other = replace(HUB, what="data sets", free_bytes=GIB // 2)
    one = only(diagnose(facts(places=(replace(HUB, free_bytes=GIB // 2), other))), "disk")
    assert "models in" in one.what and "data sets in" in one.what and one.severity == "warning"


def test_out_of_memory_with_and_without_a_dial_that_helps() -> None:
    need = MemoryNeed("RTX 3090", 20 * GIB, 9 * GIB, True, ("models.base.context: 8192 -> 2048",))
    one = only(diagnose(facts(fleet=replace(FLEET, memory=need))), "memory")
    assert one.mend == "${EDITOR:-vi} fleet.yaml   # models.base.context: 8192 -> 2048"
    stuck = replace(need, fits_empty=False, advice=())
    one = only(diagnose(facts(fleet=replace(FLEET, memory=stuck))), "memory")
    assert "empty card" in one.why and one.mend == "onecard plan fleet.yaml --card auto"


def test_a_calibration_older_than_the_driver() -> None:
    old = Calibrated(Path("c.json"), "2026-01-02T00:00:00+00:00", "550.1", "2.13.0+cu128")
    one = only(diagnose(facts(calibrated=old)), "calibration")
    assert "driver 550.1, now 580.95.05" in one.what and "torch" not in one.what


@pytest.mark.parametrize(
    ("parts", "mend"),
    [
        ({"import torch": 30.0, "open the model": 5.0}, "python -c"),
        (
            {"import torch": 3.0, "read the weights": 60.0, "open the model": 5.0},
            "cat '/models/a b'/*.safetensors > /dev/null",
        ),
        ({"import torch": 3.0, "read the weights": 6.0, "open the model": 50.0}, "onecard serve fleet.yaml --check"),
    ],
)
def test_a_slow_cold_start_is_warmed_where_it_is_slow(parts: dict[str, float], mend: str) -> None:
    one = only(diagnose(facts(cold_start=ColdStart("2026", "org/model", tuple(parts.items())))), "cold start")
    assert one.mend.startswith(mend) and "import torch" in one.what


def test_a_start_that_fails_and_models_on_another_machines_disk() -> None:
    failed = ColdStart("2026", "org/model", (("import torch", 2.0),), "no module named peft")
    one = only(diagnose(facts(cold_start=failed)), "cold start")
    assert one.severity == "problem" and one.mend == "onecard serve fleet.yaml --check"
    absent = replace(FLEET, models=(replace(MODEL, folder=None, fault="not here"),))
    assert "org/model" in only(diagnose(facts(cold_start=failed, fleet=absent)), "cold start").mend
    assert only(diagnose(facts(places=(replace(HUB, network=True),))), "cold start").severity == "warning"


def test_a_service_that_failed() -> None:
    failed = Port(8700, True, Process(7, "onecard"), Service(True, (), "failed", "the card fell off", "small", "d"))
    one = only(diagnose(facts(port=failed)), "port")
    assert "the card fell off" in one.what and one.mend.startswith("kill 7; onecard serve")
