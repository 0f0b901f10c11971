"""When each optimizer step ended and how many tokens of rows it saw; from these the two speeds, whole and steady, and the memory.

A step's end waits for the card: without that, the times are those of the queue.
"""

from __future__ import annotations

import time
from typing import Any

import torch

MIB = 2**20
CARD = torch.cuda.is_available()


def synchronize() -> None:
    if CARD:
        torch.cuda.synchronize()


def forget_peak() -> None:
    """From here on peaks count anew; what the allocator held beyond need is given back."""
    if CARD:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_mib() -> dict[str, float]:
    """Peaks since `forget_peak`, MiB; empty without a card."""
    if not CARD:
        return {}
    synchronize()
    return {
        "peak_allocated_mib": round(torch.cuda.max_memory_allocated() / MIB, 1),
        "peak_reserved_mib": round(torch.cuda.max_memory_reserved() / MIB, 1),
    }


class TokenCounter:
    """Counts the ids of rows that reach the model's embedding, padding (ids below `first_id`) left out, whoever calls the model."""

    def __init__(self, model: Any, first_id: int) -> None:
        self._first_id = first_id
        self._seen: list[torch.Tensor] = []
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, module: Any, given: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            self._seen.append((given[0] >= self._first_id).sum())

    def take(self) -> int:
        """Tokens since the last call. Waits for the card."""
        tokens = int(torch.stack(self._seen).sum()) if self._seen else 0
        self._seen.clear()
        return tokens


class StepClock:
    """Stops after `seconds` of steady steps or `most_steps`; steps before `warm_up` belong to the whole, not to the steady figures."""

    def __init__(self, warm_up: int, seconds: float, most_steps: int | None = None) -> None:
        self.warm_up, self.seconds, self.most_steps = warm_up, seconds, most_steps
        self.step_tokens: list[float] = []
        self.step_ends: list[float] = []
        self.losses: list[float] = []
        self._start = time.perf_counter()

    def start(self) -> None:
        synchronize()
        self._start = time.perf_counter()

    def step(self, tokens: float, loss: float | None = None) -> bool:
        """One optimizer step with this many tokens is over; True when it was the last one to be measured."""
        synchronize()
        self.step_ends.append(time.perf_counter() - self._start)
        self.step_tokens.append(tokens)
        if loss is not None:
            self.losses.append(loss)
        steps = len(self.step_ends)
        if self.most_steps is not None and steps >= self.most_steps:
            return True
        return steps > self.warm_up and self.step_ends[-1] - self.step_ends[self.warm_up - 1] >= self.seconds

    def result(self) -> dict[str, Any]:
        """Useful tokens/s, steady and whole, with what they are made of. No steady figure when no step came after the warm-up."""
        found: dict[str, Any] = {
            "steps": len(self.step_ends),
            "warm_up_steps": self.warm_up,
            "step_tokens": [round(tokens, 1) for tokens in self.step_tokens],
            "step_ends_s": [round(end, 4) for end in self.step_ends],
            "losses": [round(loss, 5) for loss in self.losses],
        }
        if self.step_ends:
            found["whole_tokens_s"] = round(sum(self.step_tokens) / self.step_ends[-1], 1)
        if len(self.step_ends) > self.warm_up > 0:
            seconds = self.step_ends[-1] - self.step_ends[self.warm_up - 1]
            found["steady_tokens_s"] = round(sum(self.step_tokens[self.warm_up :]) / seconds, 1)
            found["steady_step_s"] = round(seconds / (len(self.step_ends) - self.warm_up), 4)
        return found
