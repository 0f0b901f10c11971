"""The memory of a run: the allocator's on a card, the resident set of this process on a CPU."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

EVERY_S = 0.05


def used_bytes(device: torch.device, *, reset: bool = False) -> int:
    """The most that was used since the last reset, on a card; the resident set of now, on a CPU."""
    if device.type != "cuda":
        return int(psutil.Process().memory_info().rss)
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.max_memory_allocated(device))


def available_bytes(device: torch.device) -> int:
    """What this process holds of the card and what is free there; of a CPU's memory, likewise."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has no class of its own for a processor's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


class PeakMemory:
    """Measures from entering to leaving. `bytes` is the largest seen, `kind` says what was measured.

    The resident set is sampled every 50 ms: the kernel's own high-water mark would count what the process did before.
    """

    def __init__(self, device: torch.device) -> None:
        self.kind = "cuda-allocated" if device.type == "cuda" else "process-rss"
        self.bytes = 0
        self._device, self._stop = device, threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        """The allocator's peak is read again and again, for a rehearsal starts it anew."""
        if self._device.type == "cuda":
            self.bytes = max(self.bytes, torch.cuda.max_memory_allocated(self._device))
        else:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
