"""Telling times apart: the device's own, the host's, and how often to repeat within a budget of seconds.

On a card the device's time is told by its own events while the host runs ahead; what makes the host wait cannot run ahead, and its
kernels are added up by the profiler instead.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch.autograd import DeviceType

Call = Callable[[], object]
By = Literal["events", "profiler", "clock"]

TOO_FEW = "the seconds given were too few"
MOST_REPEATS = 30
BURST_S = 0.004  # one repeat takes about this long: long beside a clock's grain, short beside the budget
MOST_CALLS = 50
OVERDRAFT = 0.25
_CYCLES_S = 2.0e9  # of a card's clock, about


@dataclass(frozen=True)
class Figure:
    """Median and quartiles of `repeats` measurements."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        several = list(values) if len(values) > 1 else [*values, *values]
        low, median, high = statistics.quantiles(several, n=4, method="inclusive")
        return cls(_rounded(median), _rounded(low), _rounded(high), len(values))

    def turned(self, by: float) -> Figure:
        """A rate from a time: `by` over each value, the quartiles exchanged."""
        return Figure(_rounded(by / self.median), _rounded(by / self.high), _rounded(by / self.low), self.repeats)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


class Budget:
    """Seconds shared among parts. Each gets its share of what is left, so a slow part shortens the later ones and not the whole."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        return max(self._end - self._clock(), 0.0)

    @property
    def spent(self) -> float:
        """The share of the seconds that is gone, 0 to 1."""
        return min(1 - self.left / self.seconds, 1.0)

    @property
    def overdrawn(self) -> bool:
        """Whether parts took so much more than their share that the rest had better be left out."""
        return self._clock() > self._end + OVERDRAFT * self.seconds

    def shares(self, weights: Sequence[float]) -> Iterator[float]:
        """Seconds for each part in turn, reckoned when it is asked for."""
        for number, weight in enumerate(weights):
            yield self.left * weight / sum(weights[number:])


def repeated(sample: Callable[[], float], seconds: float, least: int = 3) -> list[float]:
    """Values of `sample` until the seconds are over: `least` of them, or until twice the seconds; MOST_REPEATS at most."""
    end = time.perf_counter() + seconds
    values = [sample()]
    while len(values) < MOST_REPEATS:
        now = time.perf_counter()
        if now >= end and (len(values) >= least or now >= end + seconds):
            break
        values.append(sample())
    return values


def clock_of(device: torch.device) -> Callable[[], float]:
    """What tells a host's seconds when one thread does the work: on a CPU the thread's own time, which stands still while others have
    the core; beside a card the wall's, for the host waits for the card too."""
    return time.thread_time if device.type == "cpu" else time.perf_counter


def wait_for(device: torch.device) -> None:
    """Returns when the card has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_seconds(device: torch.device, call: Call, calls: int = 1) -> float:
    """Seconds from the first of `calls` calls until the last is done, each."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait_for(device)
    return (time.perf_counter() - start) / calls


def calls_for(seconds_each: float) -> int:
    """How many calls make one repeat."""
    return max(1, min(MOST_CALLS, int(BURST_S / max(seconds_each, 1e-7))))


def device_seconds(device: torch.device, call: Call, calls: int) -> float:
    """Seconds of the device's own time a call takes, launches not waited for: the card sleeps until the host is ahead."""
    if device.type == "cpu":
        return host_seconds(device, call, calls)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start = time.perf_counter()
    call()
    launch_s = time.perf_counter() - start
    wait_for(device)
    torch.cuda._sleep(int(min(2 * launch_s * calls + 1e-4, 0.05) * _CYCLES_S))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    wait_for(device)
    return float(begin.elapsed_time(end)) / 1e3 / calls


def kernel_seconds(device: torch.device, call: Call, calls: int) -> float:
    """Seconds a call's kernels and copies take on the card, added up by the profiler. RuntimeError when it saw none."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(calls):
            call()
        wait_for(device)
    microseconds = sum(
        event.self_device_time_total
        for event in seen.key_averages()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    )
    if microseconds <= 0:
        raise RuntimeError("the profiler saw no kernel")
    return float(microseconds) / 1e6 / calls


def waits(device: torch.device, call: Call) -> bool:
    """Whether a call makes the host wait for the card."""
    if device.type == "cpu":
        return False
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error).lower():
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False


@dataclass(frozen=True)
class Timed:
    """One operation: the device's time, from call to call, and what told the former. Microseconds."""

    us: Figure
    called_us: Figure
    by: By


def timed(device: torch.device, call: Call, seconds: float) -> Timed:
    """Both times of a call, the device's with two thirds of the seconds. The first calls warm up and are not counted."""
    host_seconds(device, call)
    calls = calls_for(host_seconds(device, call))
    if device.type == "cpu":
        figure = Figure.of([1e6 * s for s in repeated(lambda: host_seconds(device, call, calls), seconds)])
        return Timed(figure, figure, "clock")
    own, by = _told_by(device, call)
    # Starting and reading a profiler takes longer than what it profiles, and it adds up `calls` of them: once is enough.
    own_s = repeated(lambda: own(device, call, calls), seconds * 2 / 3, least=1 if by == "profiler" else 3)
    called_s = repeated(lambda: host_seconds(device, call, calls), seconds / 3)
    return Timed(Figure.of([1e6 * s for s in own_s]), Figure.of([1e6 * s for s in called_s]), by)


def _told_by(device: torch.device, call: Call) -> tuple[Callable[[torch.device, Call, int], float], By]:
    """Events; for a call that waits, the profiler. Where that does not work events stay, which then count the waiting too."""
    if waits(device, call):
        with suppress(Exception):  # whatever a profiler without its library raises
            kernel_seconds(device, call, 1)
            return kernel_seconds, "profiler"
    return device_seconds, "events"


def growing(
    sizes: Sequence[int], seconds: float, one: Callable[[int, float], Timed], what: str, missing: list[str]
) -> Iterator[tuple[int, Timed]]:
    """`one(size, seconds)` for every size, small ones first, up to the first that would not end in time; `missing` says which."""
    budget = Budget(seconds)
    last_s, last_size, whole_s = 0.0, 1, 0.0
    for size, share in zip(sizes, budget.shares([1 + size / 256 for size in sizes]), strict=True):
        last_s, last_size = last_s * size / last_size, size  # no operation here grows faster than its size
        # Two calls to warm up, and some to count; and what it takes to measure at all, which for a profiler is far more.
        if max(4 * last_s, whole_s) > budget.left:
            missing.append(f"{what}, {size} tokens and more: {TOO_FEW}")
            return
        before = budget.left
        taken = one(size, share)
        last_s, whole_s = taken.called_us.median / 1e6, before - budget.left
        yield size, taken
