"""Picks the next token of one row: greedy, or sampled with the row's own random numbers.

Every row has its own generator, so what its neighbours in a batch draw never changes what it draws.
"""

from __future__ import annotations

import torch


class Sampler:
    """Temperature 0 is greedy. `top_p` keeps the smallest set of most probable tokens that together reach it."""

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token. `logits` is [vocabulary] on the CPU; a token at -inf is never picked."""
        if self._temperature == 0:
            return int(logits.argmax())
        # In float64 and with the largest logit taken off first, a temperature close to zero becomes greedy instead of NaN.
        scaled = (logits.double() - logits.max().double()) / self._temperature
        probabilities, tokens = torch.softmax(scaled, dim=-1).sort(descending=True, stable=True)
        if self._top_p < 1:
            before = probabilities.cumsum(0) - probabilities
            probabilities = probabilities.masked_fill(before >= self._top_p, 0.0)
        return int(tokens[torch.multinomial(probabilities, 1, generator=self._generator)])
