"""The budget is kept, repeats are told as median and quartiles, and what would take too long is named and not begun."""

from __future__ import annotations

import time

import pytest
import torch

from onecard.engines.local import calibration_clock as clock
from onecard.engines.local.calibration_clock import MOST_REPEATS, Budget, Figure, Timed, growing, repeated, timed, waits

CPU = torch.device("cpu")


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def took(seconds: float) -> Timed:
    figure = Figure.of([1e6 * seconds])
    return Timed(figure, figure, "clock")


def test_median_and_quartiles() -> None:
    assert Figure.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Figure(3.0, 2.0, 4.0, 5)
    assert Figure.of([7.0]) == Figure(7.0, 7.0, 7.0, 1)


def test_a_rate_from_a_time_keeps_its_quartiles_in_order() -> None:
    assert Figure(2.0, 1.0, 4.0, 3).turned(8.0) == Figure(4.0, 2.0, 8.0, 3)


def test_parts_share_what_is_left() -> None:
    clock = FakeClock()
    budget = Budget(100.0, clock)
    shares = budget.shares([1, 1, 2])
    assert next(shares) == 25.0
    clock.now += 55  # the first part took more than twice its share
    assert next(shares) == 15.0
    clock.now += 5  # and the second less
    assert next(shares) == 40.0
    assert (budget.left, budget.spent) == (40.0, 0.6)
    clock.now += 64
    assert not budget.overdrawn and budget.left == 0 and budget.spent == 1
    clock.now += 2
    assert budget.overdrawn


def test_repeats_end_with_the_seconds_or_at_the_most() -> None:
    assert len(repeated(lambda: 1.0, seconds=60)) == MOST_REPEATS
    assert len(repeated(lambda: 1.0, seconds=0)) == 1


def test_a_size_that_would_not_end_in_time_is_named_and_not_begun() -> None:
    begun, missing = [], []

    def one(size: int, seconds: float) -> Timed:
        begun.append(size)
        return took(0.1)

    found = [size for size, _ in growing((1, 2, 256, 512), 10.0, one, "nf4", missing)]
    assert found == begun == [1, 2]  # 256 would be reckoned at 12.8 s
    assert missing == ["nf4, 256 tokens and more: the seconds given were too few"]


def test_what_takes_long_to_measure_is_not_measured_beyond_its_seconds() -> None:
    missing: list[str] = []

    def one(size: int, seconds: float) -> Timed:
        time.sleep(0.15)  # a profiler that starts and stops
        return took(1e-6)

    found = [size for size, _ in growing((1, 2, 4), 0.2, one, "int8", missing)]
    assert found == [1]
    assert missing == ["int8, 2 tokens and more: the seconds given were too few"]


def test_a_call_is_timed_on_this_machine() -> None:
    calls = []
    seen = timed(CPU, lambda: calls.append(1), seconds=0.01)
    assert seen.by == "clock" and seen.us == seen.called_us
    assert 0 < seen.us.low <= seen.us.median <= seen.us.high
    assert len(calls) > seen.us.repeats  # the first calls warm up


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_there_is_always_a_figure(seconds: float) -> None:
    assert timed(CPU, lambda: None, seconds).us.repeats >= 1


class FakeEvent:
    """An event of a card whose work takes 3 ms between any two."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def elapsed_time(self, other: FakeEvent) -> float:
        return 3.0


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Stands in for a card: what is asked of torch.cuda must exist there under that name, and answers at once."""
    mode = ["default"]
    answers = {
        "Event": FakeEvent,
        "_sleep": lambda cycles: None,
        "synchronize": lambda device: None,
        "get_sync_debug_mode": lambda: mode[0],
        "set_sync_debug_mode": lambda new: mode.__setitem__(0, new),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return torch.device("cuda", 0)


def test_on_a_card_its_events_tell_its_time_and_the_wall_the_callers(card: torch.device) -> None:
    seen = timed(card, lambda: None, seconds=0.01)
    assert seen.by == "events" and seen.us.median == pytest.approx(3000 / 50)  # fifty calls between two events
    assert seen.called_us.median != seen.us.median


def test_what_waits_for_the_card_is_told_by_its_kernels(card: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> None:
        if torch.cuda.get_sync_debug_mode() == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(clock, "kernel_seconds", lambda device, call, calls: 7e-6)
    assert timed(card, call, seconds=0.01).by == "profiler"
    assert timed(card, call, seconds=0.01).us.median == pytest.approx(7)
    assert timed(card, call, seconds=0.0).us.repeats == 1  # a profile is of many calls, and dear

    def without_library(*_: object) -> float:
        raise RuntimeError("the profiler saw no kernel")

    monkeypatch.setattr(clock, "kernel_seconds", without_library)
    assert timed(card, call, seconds=0.01).by == "events"
    assert torch.cuda.get_sync_debug_mode() == "default"


def test_an_operation_that_fails_is_no_operation_that_waits(card: torch.device) -> None:
    def call() -> None:
        raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match="kernel image"):
        waits(card, call)
    assert torch.cuda.get_sync_debug_mode() == "default"
