"""Which tensors are alive at the peak: every operator's outputs are followed until their storage is freed.

What kernels hold inside is not seen. Costs a few microseconds an operator, so it is for looking, not for timing.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Live(TorchDispatchMode):
    """`peak` bytes of what was made inside, and `snapshot`: what was alive then."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[int, str, Any]] = {}
        self._now = 0
        self.peak = 0
        self.at = ""
        self._kept: list[tuple[int, str]] = []

    def restart(self) -> None:
        """What is alive stays so; the peak starts at it."""
        self.peak, self.at, self._kept = self._now, "restart", [(size, what) for size, what, _ in self._live.values()]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor, str(func))
        if self._now > self.peak:
            self.peak, self.at = self._now, str(func)
            self._kept = [(size, what) for size, what, _ in self._live.values()]
        return out

    def _follow(self, tensor: torch.Tensor, made_by: str) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._live.get(key)
        if known is not None and known[2]() is storage:
            return
        what = f"{made_by} {tuple(tensor.shape)} {str(tensor.dtype)[6:]}"
        self._live[key] = (storage.nbytes(), what, weakref.ref(storage, lambda _: self._gone(key)))
        self._now += storage.nbytes()

    def _gone(self, key: int) -> None:
        entry = self._live.pop(key, None)
        if entry:
            self._now -= entry[0]

    def snapshot(self, most: int = 30) -> list[tuple[int, int, str]]:
        """(bytes of one, how many, made by, shape and type), the largest first."""
        counted = Counter(self._kept)
        return [
            (size, number, what)
            for (size, what), number in sorted(counted.items(), key=lambda e: -e[0][0] * e[1])[:most]
        ]
