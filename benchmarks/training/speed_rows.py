"""Document E's rows without their words: 1,600 of them, 206,000 tokens, the answer learned and the prompt not.

What decides speed is how long rows are. Half are terse and half verbose, between 40 and 400 tokens, 129 on average; ids are random.
The seed is fixed, so every variant sees the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

ROWS, TOKENS = 1600, 206_000
SHORTEST, LONGEST = 40, 400
FIRST_ID = 16  # below stand special tokens in most vocabularies


@dataclass(frozen=True)
class SpeedRow:
    """`ids` are prompt and answer; the first `prompt_tokens` of them are not learned."""

    ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def trained(self) -> tuple[bool, ...]:
        return tuple(place >= self.prompt_tokens for place in range(len(self.ids)))


def lengths(count: int = ROWS, total: int = TOKENS, seed: int = 17) -> list[int]:
    """`count` lengths between 40 and 400 tokens that add up to `total`: terse rows near 70, verbose ones near 190 with a long tail."""
    if not count * SHORTEST <= total <= count * LONGEST:
        raise ValueError(f"{count} rows of {SHORTEST} to {LONGEST} tokens cannot hold {total}")
    chance = random.Random(seed)
    found = [
        round(chance.gauss(70, 12) if place % 2 == 0 else chance.lognormvariate(5.2, 0.3)) for place in range(count)
    ]
    found = [min(max(length, SHORTEST), LONGEST) for length in found]
    off = total - sum(found)
    while off:
        place, move = chance.randrange(count), 1 if off > 0 else -1
        if SHORTEST <= found[place] + move <= LONGEST:
            found[place] += move
            off -= move
    chance.shuffle(found)
    return found


def make_rows(
    vocabulary: int, added: Sequence[int] = (), count: int = ROWS, total: int = TOKENS, seed: int = 17
) -> list[SpeedRow]:
    """Rows of random ids below `vocabulary`; each prompt (a fifth of the row, 12 to 32 tokens) begins with one of the `added` ids."""
    chance = random.Random(seed + 1)
    rows = []
    for length in lengths(count, total, seed):
        ids = [chance.randrange(FIRST_ID, vocabulary) for _ in range(length)]
        if added:
            ids[0] = chance.choice(list(added))
        rows.append(SpeedRow(tuple(ids), min(max(length // 5, 12), 32)))
    return rows


def bins(rows: Sequence[SpeedRow], size: int) -> list[list[SpeedRow]]:
    """Rows laid into bins of `size` tokens, each into the fullest bin that has room: best fit, longest first."""
    found: list[list[SpeedRow]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        fitting = [place for place, left in enumerate(room) if left >= len(row.ids)]
        if fitting:
            best = min(fitting, key=lambda place: room[place])
            found[best].append(row)
            room[best] -= len(row.ids)
        else:
            found.append([row])
            room.append(size - len(row.ids))
    return found
