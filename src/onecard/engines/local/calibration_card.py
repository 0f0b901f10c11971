"""What the card does by itself, whatever runs on it: copy, read, multiply in bf16, start an operator.

Data is random, for a card is faster on zeros; buffers take turns and are larger than its last cache together, for a model's weights
never stay in it.
"""

from __future__ import annotations

import itertools
import platform
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache

import psutil
import torch

from onecard.engines.local.calibration_clock import (
    Budget,
    Call,
    Figure,
    Timed,
    calls_for,
    clock_of,
    device_seconds,
    growing,
    host_seconds,
    repeated,
    timed,
    wait_for,
)

TOKENS = tuple(2**power for power in range(13))
MIB = 1 << 20


@dataclass(frozen=True)
class Sizes:
    """How much is copied, which products are made. `least_bytes` is what buffers that take turns come to, together."""

    copied_bytes: int
    least_bytes: int
    products: tuple[tuple[int, int], ...]
    linear: tuple[int, int]
    linear_tokens: tuple[int, ...]


CARD_SIZES = Sizes(512 * MIB, 256 * MIB, ((4096, 4096), (4096, 14336)), (4096, 14336), (1, 4, 16, 64, 256, 1024, 4096))
CPU_SIZES = Sizes(128 * MIB, 64 * MIB, ((1024, 1024), (1024, 3584)), (1024, 3584), (1, 4, 16, 64, 256, 1024))


@dataclass(frozen=True)
class CardFacts:
    """The card as torch names it. `capability` such as 9.0; `total_bytes` is what torch reports of its memory."""

    name: str
    kind: str
    driver: str | None
    capability: str | None
    total_bytes: int
    l2_bytes: int | None


@dataclass(frozen=True)
class Gemm:
    """One bf16 product [tokens, inputs] x [inputs, outputs]."""

    tokens: int
    inputs: int
    outputs: int
    tflops: Figure


def card_facts(device: torch.device) -> CardFacts:
    """Name, driver and memory of the device."""
    if device.type == "cpu":
        name = platform.processor() or platform.machine()
        return CardFacts(name, "cpu", None, None, int(psutil.virtual_memory().total), None)
    facts = torch.cuda.get_device_properties(device)
    return CardFacts(
        name=torch.cuda.get_device_name(device),
        kind="cuda",
        driver=driver(),
        capability=f"{facts.major}.{facts.minor}",
        total_bytes=int(facts.total_memory),
        l2_bytes=int(getattr(facts, "L2_cache_size", 0)) or None,
    )


@lru_cache(maxsize=1)
def driver() -> str | None:
    """The NVIDIA driver's version, None where its tool is not there."""
    asked = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split("\n")
    return lines[0].strip() or None if done.returncode == 0 else None


def turns(device: torch.device, sizes: Sizes, bytes_each: int) -> int:
    """How many buffers take turns so that none is still in the cache when its turn comes again."""
    cache = card_facts(device).l2_bytes or 0
    return max(2, -(-max(sizes.least_bytes, 4 * cache) // bytes_each))


def bandwidths(device: torch.device, sizes: Sizes, seconds: float) -> tuple[Figure, Figure]:
    """10^9 bytes/s of a copy (read plus written) and of a sum in fp32, which only reads."""
    source = torch.randn(sizes.copied_bytes // 4, device=device)
    target = torch.empty_like(source)
    wake(device)
    copy_s = _streaming(device, lambda: target.copy_(source), seconds / 2)
    read_s = _streaming(device, lambda: source.sum(), seconds / 2)
    return copy_s.turned(2 * source.nbytes / 1e9), read_s.turned(source.nbytes / 1e9)


def _streaming(device: torch.device, call: Call, seconds: float) -> Figure:
    host_seconds(device, call)
    calls = calls_for(host_seconds(device, call))
    return Figure.of(repeated(lambda: device_seconds(device, call, calls), seconds))


def launches(device: torch.device, seconds: float) -> tuple[Figure, Figure]:
    """Host microseconds of a trivial operator: when others follow at once, and when its result is waited for."""
    number, now = torch.randn(16, device=device), clock_of(device)

    def row() -> float:
        start = now()
        for _ in range(500):
            number.mul_(1.0)
        taken = now() - start
        wait_for(device)
        return taken / 500 * 1e6

    def round_trip() -> float:
        start = now()
        for _ in range(50):
            number.mul_(1.0)
            number[0].item()
        return (now() - start) / 50 * 1e6

    row(), round_trip()
    return Figure.of(repeated(row, seconds / 2)), Figure.of(repeated(round_trip, seconds / 2))


def products(device: torch.device, sizes: Sizes, seconds: float, missing: list[str]) -> list[Gemm]:
    """The curve, from the device's own time. What there was no time for is added to `missing`."""
    found: list[Gemm] = []
    wake(device)
    shares = Budget(seconds).shares([inputs * outputs for inputs, outputs in sizes.products])
    for (inputs, outputs), share in zip(sizes.products, shares, strict=True):
        found += _curve(device, sizes, inputs, outputs, share, missing)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the next shape's matrices find room on a small card
    return found


def _curve(
    device: torch.device, sizes: Sizes, inputs: int, outputs: int, seconds: float, missing: list[str]
) -> list[Gemm]:
    count = turns(device, sizes, 2 * inputs * outputs)
    matrices = itertools.cycle([random_matrix(device, outputs, inputs) for _ in range(count)])

    def product(tokens: int, seconds: float) -> Timed:
        rows = random_matrix(device, tokens, inputs)
        return timed(device, lambda: torch.nn.functional.linear(rows, next(matrices)), seconds)

    with torch.inference_mode():
        return [
            Gemm(tokens, inputs, outputs, taken.us.turned(2e-6 * tokens * inputs * outputs))
            for tokens, taken in growing(TOKENS, seconds, product, f"{inputs} to {outputs}", missing)
        ]


def random_matrix(device: torch.device, rows: int, columns: int) -> torch.Tensor:
    """Normal bf16 numbers [rows, columns]."""
    return torch.randn(rows, columns, device=device, dtype=torch.bfloat16)


def wake(device: torch.device, seconds: float = 0.3) -> None:
    """Keeps a card busy until it has left its idle clocks, those of its memory too."""
    if device.type == "cpu":
        return
    matrix, end = random_matrix(device, 2048, 2048), time.perf_counter() + seconds
    while time.perf_counter() < end:
        host_seconds(device, lambda: torch.mm(matrix, matrix), calls=10)
