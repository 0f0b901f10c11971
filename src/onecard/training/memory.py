"""The peak memory of a run: the allocator's on a card, the resident set of this process on a CPU."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

EVERY_S = 0.05


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
        if self.kind == "process-rss":
            self._thread.start()
        else:
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.kind == "process-rss":
            self._stop.set()
            self._thread.join()
            self._look()
        else:
            self.bytes = torch.cuda.max_memory_allocated(self._device)

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)
