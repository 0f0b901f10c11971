"""A calibration goes on when a part of it fails, stops when a person says so, and keeps its budget."""

from __future__ import annotations

from typing import Any

import pytest

from onecard.engines.local import calibration
from onecard.engines.local.calibration import Absent, measure
from onecard.errors import MissingPart


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that take longest are tested by themselves."""
    monkeypatch.setattr(calibration, "decode_steps", lambda *_: ["step"])
    monkeypatch.setattr(calibration, "training_steps", lambda *_: ["training step"])
    monkeypatch.setattr(calibration, "pick_times", lambda *_: ["pick"])
    monkeypatch.setattr(calibration, "products", lambda *_: ["product"])
    monkeypatch.setattr(calibration, "linear_times", lambda *_: ["linear"])
    monkeypatch.setattr(calibration, "context_of", lambda *_: "context")


def test_every_part_is_measured_and_told(quick: None) -> None:
    told: list[tuple[str, float]] = []
    seen = measure("cpu", 40.0, lambda what, share: told.append((what, share)))
    assert (seen.steps, seen.training_steps) == (["step"] * 3, ["training step"] * 2)
    assert (seen.gemm, seen.linears, seen.picks, seen.context) == (["product"], ["linear"] * 3, ["pick"], "context")
    assert seen.copy_gbs and seen.launch_us and not seen.absent and not seen.empty
    assert told[-1] == ("done", 1.0) and any("nf4" in what for what, _ in told)
    assert all(0 <= share <= 1 for _, share in told)
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= seen.versions.keys()


def test_a_part_that_fails_is_named_and_the_others_go_on(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: Any, form: str, *_: Any) -> list[Any]:
        if form == "int8":
            raise RuntimeError("no int8 kernel for this card\nstack of C++ words")
        return [form]

    monkeypatch.setattr(calibration, "decode_steps", fails)
    seen = measure("cpu", 40.0)
    assert seen.absent == [Absent("steps.int8", "RuntimeError: no int8 kernel for this card")]
    assert seen.steps == ["none", "nf4"] and seen.gemm == ["product"]


def test_a_small_budget_starts_no_second_process(quick: None) -> None:
    seen = measure("cpu", 2.0)
    assert seen.context is None and [part.part for part in seen.absent] == ["context"]


def test_the_second_process_has_its_share_of_the_seconds(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def context_of(device: Any, missing: list[str], seconds: float) -> str:
        given.append(seconds)
        return "context"

    monkeypatch.setattr(calibration, "context_of", context_of)
    measure("cpu", 40.0)
    assert given == [pytest.approx(24.0)]


def test_parts_for_which_no_time_is_left_are_named(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration.Budget, "overdrawn", True)
    seen = measure("cpu", 2.0)
    assert seen.empty and {"copy_gbs", "gemm", "steps.nf4", "linears.int8"} <= {part.part for part in seen.absent}


def test_ctrl_c_is_no_failure_of_a_part(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "launches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure("cpu", 2.0)


def test_a_card_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingPart):
        measure("cuda", 2.0)


def test_others_on_the_card_are_what_this_process_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    session = calibration._Session(calibration.choose_device("cpu"), calibration.CPU_SIZES, calibration.ON_A_CPU, 1.0)
    session._judge_others(5 << 30)
    assert session.seen.others_bytes is None and not session.seen.warnings  # without the context nobody knows
    session.seen.context = calibration.Context(1 << 30, None, None)
    session._judge_others(5 << 30)
    assert session.seen.others_bytes == 4 << 30 and "others hold 4.0 GiB" in session.seen.warnings[0]
    session._judge_others(1 << 30)
    assert session.seen.others_bytes == 0 and len(session.seen.warnings) == 1
