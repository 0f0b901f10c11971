"""Picks the next token of one row: greedy, or sampled with the row's own random numbers.

A draw is a race: every token waits for a random time of its own, shorter the more probable it is, and the first one wins. The times
hang on the row's seed and the token's id alone, so a probability that moves by a rounding error, as it does when the neighbours in a
batch change, rarely changes the winner. Nothing is sorted: that takes milliseconds where a vocabulary has 128,000 tokens.
"""

from __future__ import annotations

import numpy as np
import torch

from onecard.errors import EngineFailed

# Tokens race in blocks, then within the block that won: two short races instead of one over the vocabulary.
BLOCK = 256
_BLOCKS = 2**40  # where the numbers of blocks begin, beyond every token id


class Sampler:
    """Temperature 0 is greedy. `top_p` keeps the smallest set of most probable tokens that together reach it, lower ids first."""

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token. `logits` is [vocabulary] on the CPU; a token at -inf is never picked. EngineFailed when none is possible."""
        if self._temperature == 0:
            return int(logits.argmax())
        highest = logits.max()
        if not highest.isfinite():
            raise EngineFailed(f"the model's highest logit is {float(highest)}: no token can be drawn")
        # In float64 and with the largest logit taken off first, a temperature close to zero becomes greedy instead of NaN.
        weights = logits.double().sub_(highest).div_(self._temperature).exp_()
        limit = self._top_p * float(weights.sum())
        draw = int(torch.empty((), dtype=torch.int64).random_(generator=self._generator))
        while True:
            token = _winner(weights, draw)
            if self._top_p >= 1:
                return token
            # A token is in the set when those ranked before it do not reach top_p. If it is not, neither is any token after it, and
            # drawing again among those before it gives each of the set its share.
            weights.masked_fill_(torch.cat((logits[:token] < logits[token], logits[token:] <= logits[token])), 0.0)
            before = float(weights.sum())
            if before == 0 or before < limit:
                return token
            draw += 1


def likeliest(logits: torch.Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The log-probability of `token` in logits [vocabulary], and the `top` likeliest tokens with theirs, best first."""
    logarithms = logits.double().log_softmax(dim=-1)
    values, ids = logarithms.topk(min(top, len(logarithms)))
    return float(logarithms[token]), list(zip(ids.tolist(), values.tolist(), strict=True))


def _winner(weights: torch.Tensor, draw: int) -> int:
    """The token that wins the race of this draw; one of weight 0 never does."""
    whole = len(weights) // BLOCK * BLOCK
    blocks = torch.cat((weights[:whole].view(-1, BLOCK).sum(1), weights[whole:].sum(0, keepdim=True)))
    start = BLOCK * _first(blocks, _BLOCKS, draw)
    return start + _first(weights[start : start + BLOCK], start, draw)


def _first(weights: torch.Tensor, number: int, draw: int) -> int:
    """Which of `weights` wins: the largest weight / waiting time. The first has this number, the others the numbers after it."""
    numbers = np.arange(number, number + len(weights), dtype=np.uint64)
    return int(np.argmax(weights.numpy() / _waiting_times(numbers, draw)))


def _waiting_times(numbers: np.ndarray, draw: int) -> np.ndarray:
    """Exponentially distributed, from `draw` and the number alone.

    Output `number` of SplitMix64 started at `draw` (Steele, Lea and Flood 2014), its upper 52 bits taken as a fraction above 0 and below 1.
    """
    mixed = np.uint64(draw) + (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return -np.log(((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)
