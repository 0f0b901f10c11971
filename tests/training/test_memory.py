"""The peak of a run is what was held while it ran, also when it was given back before the end."""

from __future__ import annotations

import time

import psutil
import pytest
import torch

from onecard.training.memory import PeakMemory

MIB = 1 << 20


def test_memory_that_was_given_back_counts():
    before = psutil.Process().memory_info().rss
    with PeakMemory(torch.device("cpu")) as memory:
        held = torch.ones(64 * MIB, dtype=torch.uint8)
        time.sleep(0.3)
        del held
    assert memory.kind == "process-rss"
    assert before + 60 * MIB < memory.bytes < before + 600 * MIB


def test_it_stops_when_the_run_fails():
    memory = PeakMemory(torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt), memory:
        raise KeyboardInterrupt
    assert memory.bytes > 0 and not memory._thread.is_alive()
