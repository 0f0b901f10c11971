"""Who asks a model what: its agents' requests, so many callers, and how requests of one agent differ from one another.

No chance: every quantile of the lengths comes once a round, in an order a fixed seed shuffled, so the same load is always the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import exp
from random import Random
from statistics import NormalDist

# Answers of one job differ in length: their spread (of the logarithm) is 0.05 to 0.22 in the six data sets that ship with onecard.
LENGTH_SPREAD = 0.20
# The same request takes a little longer or shorter each time; on a machine that shares its host its 95th percentile was seen 6 to 12%
# above its median.
MACHINE_SPREAD = 0.05
LENGTHS = 128  # so many quantiles of the lengths stand for all of them
SEED = 20261121


@dataclass(frozen=True)
class Shape:
    """Requests of one agent: typical lengths, the longest answer it is allowed, and its part of the load relative to the others'."""

    agent: str
    prompt_tokens: int
    new_tokens: int
    longest: int
    part: float = 1.0


@dataclass(frozen=True)
class Load:
    """Who asks what. `piece_tokens`: prompts are prefilled in pieces of so many tokens while the others decode on (None: they wait)."""

    shapes: tuple[Shape, ...]
    callers: int
    lines: int
    piece_tokens: int | None = None
    length_spread: float = LENGTH_SPREAD
    machine_spread: float = MACHINE_SPREAD

    def part(self, agent: str) -> float:
        """The agent's share of all requests, 0 to 1."""
        whole = sum(shape.part for shape in self.shapes)
        return sum(shape.part for shape in self.shapes if shape.agent == agent) / whole


def asked_for(load: Load) -> Iterator[tuple[Shape, int]]:
    """Whose request comes next and how long its answer gets, without end: every agent in its part of the load."""
    generator = Random(SEED)
    parts = [load.part(shape.agent) for shape in load.shapes]
    owed = [0.0] * len(load.shapes)
    lengths = [quantile_factors(load.length_spread, generator) for _ in load.shapes]
    while True:
        # Whoever is owed most is next, and a little disorder keeps agents from taking turns in step with the callers.
        owed = [debt + part for debt, part in zip(owed, parts, strict=True)]
        drawn = [debt + generator.random() if debt > 0 else debt for debt in owed]
        which = drawn.index(max(drawn))
        owed[which] -= 1
        shape = load.shapes[which]
        yield shape, max(1, min(round(shape.new_tokens * next(lengths[which])), shape.longest))


def quantile_factors(spread: float, generator: Random) -> Iterator[float]:
    """Quantiles of a lognormal factor around 1, each once a round, in an order the generator shuffles."""
    factors = [exp(spread * z) for z in _normal_quantiles()]
    while True:
        yield from generator.sample(factors, LENGTHS)


@cache
def _normal_quantiles() -> tuple[float, ...]:
    normal = NormalDist()
    return tuple(normal.inv_cdf((k + 0.5) / LENGTHS) for k in range(LENGTHS))
