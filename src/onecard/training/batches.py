"""Which rows make a step, and how they are laid into forward passes: pure, and the same for the same seed.

Every optimizer step sees a random draw of all rows. Packing lays its rows end to end, so it changes the speed of a step and not its
sums: a step of 16 rows is those 16 rows, however many forward passes they take. Where an architecture cannot keep packed rows apart,
rows of similar length of one step are padded instead. Sorting further than one step would save more padding and ruin the training:
with terse and verbose answers in one set, every step would teach one style (seen: 10 of 48 verbose answers were long, instead of 48).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from onecard.fleet.recipe import BatchSection
from onecard.training.chat import EncodedPair, EncodedRow

Unit = EncodedRow | EncodedPair  # what a step draws: a row, or a pair of answers that belong together

PAD_TO = 16  # tokens of a pass on a card, which likes multiples of 16


def texts_of(unit: Unit) -> tuple[EncodedRow, ...]:
    """The texts a unit is read as: a row is one, a pair two."""
    return unit.sides if isinstance(unit, EncodedPair) else (unit,)


def tokens_of(unit: Unit) -> int:
    return sum(len(text.ids) for text in texts_of(unit))


def width_of(unit: Unit) -> int:
    """The tokens of a unit's longest text: what it takes of a padded pass."""
    return max(len(text.ids) for text in texts_of(unit))


def learned_of(unit: Unit) -> int:
    """The tokens of a unit that are learned."""
    return sum(len(_learned(text)) for text in texts_of(unit))


def kept_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(trained, validated): indices of rows, `round(count * share)` of them drawn for validation; at least one is trained."""
    out = min(round(count * share), count - 1)
    chosen = set(random.Random(f"validation-{seed}").sample(range(count), out))
    return [index for index in range(count) if index not in chosen], sorted(chosen)


def total_steps(rows: int, batch: BatchSection, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of a run over so many trained rows."""
    return max_steps or ceil(epochs * ceil(rows / batch.step_rows))


def steps(count: int, batch: BatchSection, seed: int, total: int) -> Iterator[list[int]]:
    """The rows of each of `total` steps: every epoch all rows once in a new order, the last step of an epoch with what is left."""
    epoch, done = 0, 0
    while done < total:
        indices = list(range(count))
        random.Random(seed * 1_000_003 + epoch).shuffle(indices)
        for start in range(0, count, batch.step_rows):
            if done == total:
                return
            yield indices[start : start + batch.step_rows]
            done += 1
        epoch += 1


def dealt(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Places of a step's units for each of `ranks` processes, as even in tokens as longest first can make it; some get none of few."""
    return _evenly(lengths, ranks)


def packed(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Places of a step's units in forward passes of at most `most` tokens (a longer unit is alone), as few as first fit finds and then
    as even as it can be: an even pass is the smallest peak.

    First fit, longest first, needs at most 11/9 of the fewest passes possible (Johnson 1973).
    """
    few = _first_fit(lengths, most)
    even = _evenly(lengths, len(few))
    return even if all(len(held) == 1 or _sum(lengths, held) <= most for held in even) else few


def _first_fit(lengths: Sequence[int], most: int) -> list[list[int]]:
    bins: list[tuple[int, list[int]]] = []
    for place in _longest_first(lengths):
        for number, (used, held) in enumerate(bins):
            if used + lengths[place] <= most:
                bins[number] = (used + lengths[place], [*held, place])
                break
        else:
            bins.append((lengths[place], [place]))
    return [sorted(held) for _, held in bins]


def _evenly(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Each next longest into the emptiest pass."""
    bins: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    for place in _longest_first(lengths):
        emptiest = used.index(min(used))
        bins[emptiest].append(place)
        used[emptiest] += lengths[place]
    return [sorted(held) for held in bins]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))


def _sum(lengths: Sequence[int], held: Sequence[int]) -> int:
    return sum(lengths[place] for place in held)


def padded(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Places of a step's units in forward passes of `rows` each, similar lengths together."""
    ordered = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    return [ordered[start : start + rows] for start in range(0, len(ordered), rows)]


@dataclass(frozen=True)
class Rounding:
    """Multiples up to which a text, a pass and the number of learned places are filled."""

    text: int
    tokens: int
    places: int


ON_CARD = Rounding(1, PAD_TO, 1)
# A CPU's matrix library keeps compiled kernels and their scratch memory for every shape it meets: without rounding, 36 steps of 16 rows
# grew the process by 0.7 GiB, with it by 0.1.
ON_CPU = Rounding(16, 128, 128)


def rounding_of(device: torch.device) -> Rounding:
    return ON_CPU if device.type == "cpu" else ON_CARD


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass. `ids` and `positions` are [1, tokens] when packed, [texts, longest] when padded.

    `lengths` are those of the texts laid end to end, padding included as a text of its own; None when padded. `places` index the
    flattened positions [texts * length] whose logits are learned from, `targets` the tokens to be said there, `text_of` the text (0..)
    each belongs to. `texts` counts them, `tokens` those of rows, padding left out; the first `learned` places are real, the others belong
    to the text `texts`, which there is not.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...] | None
    mask: torch.Tensor | None
    places: torch.Tensor
    targets: torch.Tensor
    text_of: torch.Tensor
    learned: int
    texts: int
    tokens: int


def lay_packed(
    texts: Sequence[EncodedRow], pad_id: int, device: torch.device, rounding: Rounding | None = None
) -> Pass:
    """Texts end to end in one row, each counting its positions from 0; filled up by the device's rounding. What fills a text comes behind
    it, where none of its tokens look."""
    to = rounding or rounding_of(device)
    ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    places: list[tuple[int, int, int]] = []
    for number, text in enumerate(texts):
        places += [(len(ids) + place - 1, text.ids[place], number) for place in _learned(text)]
        length = _up(len(text.ids), to.text)
        ids += [*text.ids, *[pad_id] * (length - len(text.ids))]
        positions += range(length)
        lengths.append(length)
    if filler := -len(ids) % to.tokens:
        ids += [pad_id] * filler
        positions += range(filler)
        lengths.append(filler)
    return Pass(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        tuple(lengths),
        None,
        *_columns(places, device, to.places, len(texts)),
        len(places),
        len(texts),
        sum(len(text.ids) for text in texts),
    )


def lay_padded(
    texts: Sequence[EncodedRow], pad_id: int, device: torch.device, rounding: Rounding | None = None
) -> Pass:
    """Texts one below the other, padded on the right to the longest, rounded up to a multiple of `PAD_TO`; padding is not seen."""
    to = rounding or rounding_of(device)
    longest = _up(max(len(text.ids) for text in texts), PAD_TO)
    places = [
        (number * longest + place - 1, text.ids[place], number)
        for number, text in enumerate(texts)
        for place in _learned(text)
    ]
    ids = [[*text.ids, *[pad_id] * (longest - len(text.ids))] for text in texts]
    mask = [[1] * len(text.ids) + [0] * (longest - len(text.ids)) for text in texts]
    return Pass(
        torch.tensor(ids, device=device),
        torch.arange(longest, device=device).expand(len(texts), -1),
        None,
        torch.tensor(mask, device=device),
        *_columns(places, device, to.places, len(texts)),
        len(places),
        len(texts),
        sum(len(text.ids) for text in texts),
    )


def _learned(text: EncodedRow) -> list[int]:
    """Places of learned tokens; the first token of a text has nothing before it to be said from."""
    return [place for place, trained in enumerate(text.trained) if trained and place]


def _columns(
    places: Sequence[tuple[int, int, int]], device: torch.device, to: int, nobody: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    filled = [*places, *[(0, 0, nobody)] * (-len(places) % to)]
    table = torch.tensor(filled, dtype=torch.long, device=device).reshape(-1, 3)
    return table[:, 0].contiguous(), table[:, 1].contiguous(), table[:, 2].contiguous()


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
