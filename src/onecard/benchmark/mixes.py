"""Who is asked how often: shares over agents (an agent is an adapter), equal, weighted or skewed as popularity is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from onecard.errors import InputError, UnknownName, nearest

ALLOWED = "equal, zipf, zipf:EXPONENT, or weights such as explainer=3,quizmaster=1"


def parse_mix(text: str, agents: Sequence[str]) -> dict[str, float]:
    """Each agent's part of the requests; the parts sum to 1. InputError for other words, UnknownName for an agent not asked.

    zipf: the k-th agent gets a part in step with 1 / k**exponent, the skew of popularity that adapter fleets show (exponent 1 where
    none is given).
    """
    kind, _, rest = text.partition(":")
    if text == "equal":
        return _parts(dict.fromkeys(agents, 1.0), text)
    if kind == "zipf":
        exponent = _weight(rest, text) if rest else 1.0
        return _parts({agent: place**-exponent for place, agent in enumerate(agents, 1)}, text)
    weights = dict.fromkeys(agents, 0.0)
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if not equals:
            raise InputError(f"'{text}' is not a mix", where="--mix", allowed=ALLOWED)
        if name not in weights:
            problem = f"'{name}' is not among the agents asked{nearest(name, agents)}"
            raise UnknownName(problem, where="--mix", allowed=", ".join(agents))
        weights[name] = _weight(number, text)
    return _parts(weights, text)


def _weight(text: str, whole: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1e9:
        raise InputError(f"'{text}' in '{whole}' is not a weight", where="--mix", allowed=ALLOWED)
    return number


def _parts(weights: Mapping[str, float], text: str) -> dict[str, float]:
    total = math.fsum(weights.values())
    if not total:
        raise InputError(f"'{text}' asks nobody", where="--mix", allowed=ALLOWED)
    return {agent: weight / total for agent, weight in weights.items() if weight}


def drawn_agents(shares: Mapping[str, float], generator: random.Random) -> Iterator[str]:
    """Agents without end, each independently with its share."""
    names, limits = list(shares), list(accumulate(shares.values()))
    while True:
        yield generator.choices(names, cum_weights=limits)[0]
