"""What torch's allocator holds, read on a card and zero without one, so that the programs can be tried on a CPU."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

CARD = torch.cuda.is_available()


def synchronize() -> None:
    if CARD:
        torch.cuda.synchronize()


def allocated() -> int:
    return torch.cuda.memory_allocated() if CARD else 0


def reserved() -> int:
    return torch.cuda.memory_reserved() if CARD else 0


def peak_and_reset() -> int:
    """The most allocated since the last reset, bytes."""
    if not CARD:
        return 0
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def peak_reserved() -> int:
    return torch.cuda.max_memory_reserved() if CARD else 0


def card_used() -> int:
    """What the driver says is in use on the whole card, bytes."""
    if not CARD:
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def driver_used() -> int:
    """The same from outside the process, so that asking opens no context."""
    if not CARD:
        return 0
    said = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(said.stdout.split()[0]) << 20 if said.returncode == 0 and said.stdout.split() else 0


def machine() -> dict[str, Any]:
    """Where it ran: card, driver's total, processor and versions."""
    versions = {}
    for name in ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    card = torch.cuda.get_device_properties(0) if CARD else None
    return {
        "card": card.name if card else "cpu",
        "card_total_bytes": card.total_memory if card else 0,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
        **versions,
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


@contextmanager
def alone(lock: str, *, shared: bool = False) -> Iterator[None]:
    """Nobody else of this benchmark uses the card meanwhile; `shared`: others may, but nobody who wants to be alone."""
    with Path(lock).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
