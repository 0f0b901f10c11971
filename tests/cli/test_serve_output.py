"""Planned beside measured: every byte of both sides is in one row."""

from __future__ import annotations

from onecard.cli.serve_output import OUTSIDE, memory_rows
from onecard.wire.health import MemoryHealth, MemoryPartHealth

PARTS = (
    MemoryPartHealth(model="base", name="base weights", bytes=100),
    MemoryPartHealth(model="base", name="adapter 0123456789ab", bytes=7),
    MemoryPartHealth(model="base", name="adapter ba9876543210", bytes=3),
    MemoryPartHealth(model="other", name="base weights", bytes=50),
    MemoryPartHealth(model="base", name="kv cache", bytes=5),
)
PLANNED = {"weights": 140, "adapters": 12, "cache": 30, "working": 40, "process": 8}


def test_parts_are_summed_by_kind_and_the_rest_is_the_process() -> None:
    assert memory_rows(MemoryHealth(parts=PARTS, process_bytes=500), PLANNED) == [
        ("weights", 140, 150),
        ("adapters", 12, 10),
        ("cache", 30, 5),
        (OUTSIDE, 48, 335),
        ("the process, resident", 230, 500),
    ]


def test_on_a_card_the_whole_is_gpu_memory() -> None:
    rows = memory_rows(MemoryHealth(parts=PARTS, gpu_bytes=200, process_bytes=500), PLANNED)
    assert rows[-1] == ("GPU memory at its peak", 230, 200)


def test_without_a_plan_only_the_measured_side_stands() -> None:
    assert [planned for _, planned, _ in memory_rows(MemoryHealth(parts=PARTS), None)] == [None] * 5
