"""What one layer, one adapter, one line costs the host in a decode step: small models through the engine's own SharedModel, Batch, Answer.

All cases of a form take turns, so that whatever else the machine does falls on each of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from onecard.engines.engine import GenerationRequest
from onecard.engines.local.answer import Answer, Prompt
from onecard.engines.local.batch import Batch
from onecard.engines.local.calibration_clock import Figure, clock_of, repeated
from onecard.engines.local.calibration_models import LAYERS, Small, random_adapter, small_llama
from onecard.engines.local.loading import Quantization
from onecard.engines.local.sampling import Sampler
from onecard.engines.local.shared_model import Resident, SharedModel

PROMPT_TOKENS = 16
LEAST_ROUNDS, MOST_ROUNDS = 1, 60
STEPS_A_ROUND = 4
# A batch begins anew after as many steps as warm it up: its lengths then come again and again. cuDNN's attention plans every length it
# has not seen, on an H200 for 36 ms, which is ten steps of the smaller model and was counted as one.
STEPS_A_BATCH = 1 + STEPS_A_ROUND
# (lines, adapters): alone and four together, bare, with one adapter, with two of them mixed.
CASES = ((1, 0), (4, 0), (1, 1), (4, 1), (4, 2))
PICKED_FROM = (32_000, 128_256)


@dataclass(frozen=True)
class StepTime:
    """One decode step; see the evidence record of the same name."""

    form: Quantization
    layers: int
    lines: int
    adapters: int
    us: Figure


@dataclass(frozen=True)
class PickTime:
    """Choosing one token from one line's logits."""

    vocabulary: int
    sampled: bool
    us: Figure


class Decoding:
    """A batch that decodes a few tokens again and again; `step` does what the worker does for one token of every line, and says how
    long it took."""

    def __init__(self, model: SharedModel, lines: int, adapters: tuple[Resident, ...], small: Small) -> None:
        self._model, self._lines, self._adapters = model, lines, adapters
        self._vocabulary = small.vocabulary
        self._now = clock_of(model.device)
        self._batch = Batch(model)
        self._steps_left = 0

    def step(self) -> float:
        """Seconds of one step."""
        if not self._steps_left:
            self._begin()
        self._steps_left -= 1
        start = self._now()
        self._give(self._batch.step())
        return self._now() - start

    def _begin(self) -> None:
        self._batch.clear()
        self._give(self._batch.join([self._answer(line) for line in range(self._lines)]))
        self._steps_left = STEPS_A_BATCH

    def _answer(self, line: int) -> Answer:
        ids = tuple(torch.randint(self._vocabulary, (PROMPT_TOKENS,)).tolist())
        adapter = self._adapters[line % len(self._adapters)] if self._adapters else None
        request = GenerationRequest(messages=(), max_new_tokens=1 << 30, temperature=0.0)
        return Answer(request, Prompt(ids, (), chat=False), adapter, lambda tokens: "", lambda chunk: None)

    def _give(self, logits: torch.Tensor) -> None:
        for answer, row in zip(self._batch.answers, logits, strict=True):
            answer.take(row[: self._model.vocabulary_of(answer.adapter)])
            if answer.finished:  # what it would time from here on is no step
                raise RuntimeError("the small model computed NaN")


def decode_steps(
    device: torch.device, form: Quantization, small: Small, seconds: float, layers: tuple[int, ...] = LAYERS
) -> list[StepTime]:
    """Every case at each depth, in turn until the seconds are over. Bare lines are those of a base that has no adapter beside it."""
    end = time.perf_counter() + seconds
    cases: dict[tuple[int, int, int], Decoding] = {}
    for depth in layers:
        bare = SharedModel(small_llama(depth, form, small, device))
        adapted, both = _with_adapters(depth, form, small, device)
        for lines, adapters in CASES:
            model = adapted if adapters else bare
            cases[depth, lines, adapters] = Decoding(model, lines, both[:adapters], small)
    taken = in_turn({case: decoding.step for case, decoding in cases.items()}, end)
    return [
        StepTime(form, depth, lines, adapters, Figure.of(times)) for (depth, lines, adapters), times in taken.items()
    ]


def _with_adapters(
    layers: int, form: Quantization, small: Small, device: torch.device
) -> tuple[SharedModel, tuple[Resident, ...]]:
    base = small_llama(layers, form, small, device)
    adapters = [random_adapter(base.model, number) for number in range(2)]
    model = SharedModel(base)
    return model, tuple(model.add(adapter) for adapter in adapters)


def in_turn(cases: dict[Any, Callable[[], float]], end: float) -> dict[Any, list[float]]:
    """Microseconds of every case, a few steps of each in turn until the clock passes `end`. The first steps warm up."""
    for step in cases.values():
        for _ in range(STEPS_A_BATCH):
            step()
    taken: dict[Any, list[float]] = {case: [] for case in cases}
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() >= end:
            break
        for case, step in cases.items():
            step()  # the case before left the caches of the CPU to itself
            taken[case] += [1e6 * step() for _ in range(STEPS_A_ROUND)]
    return taken


def pick_times(device: torch.device, seconds: float) -> list[PickTime]:
    """Choosing a token: on the CPU whatever the card, as the engine does it."""
    share = seconds / (2 * len(PICKED_FROM))
    found = []
    for vocabulary in PICKED_FROM:
        logits = torch.randn(vocabulary)
        for sampled in (False, True):
            sampler = Sampler(0.7 if sampled else 0.0, 0.95, seed=0)
            sampler.pick(logits)
            taken = repeated(partial(_picking, sampler, logits, clock_of(device)), share)
            found.append(PickTime(vocabulary, sampled, Figure.of(taken)))
    return found


def _picking(sampler: Sampler, logits: torch.Tensor, now: Callable[[], float]) -> float:
    """Microseconds of one choice."""
    start = now()
    sampler.pick(logits)
    return 1e6 * (now() - start)
