"""What counts against the card."""

from __future__ import annotations

from onecard.wire.health import Health, MemoryHealth


def test_a_card_counts_gpu_memory_and_a_cpu_the_process() -> None:
    assert MemoryHealth(gpu_bytes=5, process_bytes=9).taken_bytes == 5
    assert MemoryHealth(process_bytes=9).taken_bytes == 9
    assert Health.model_validate_json('{"status": "ok"}').memory.taken_bytes is None
