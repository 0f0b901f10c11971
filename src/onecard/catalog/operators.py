"""How many operators one decode step launches in eager PyTorch, by architecture: what rules its speed on a card with room to spare.

The figures are in operators.yaml, which benchmarks/count_operators.py writes from tiny models of transformers.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from onecard.catalog.files import Entry, read_entries


class Operators(Entry):
    """One architecture. Operators are those that launch a kernel, outside of Linears; `fixed` are those around the layers, the
    engine's mask and positions and the head among them. `padded_*` holds for a batch whose lines have padding on their left.

    Layers that come in a pattern are averaged over it, so figures a layer may be fractions. `linears_per_layer` are calls of Linears
    (shared experts too, routed ones not: they are one grouped product); `module_calls_per_layer` counts Python modules called.
    `attention` is what the in-process engine asks transformers for.
    """

    per_layer: float
    fixed: float
    padded_per_layer: float
    padded_fixed: float
    linears_per_layer: float
    module_calls_per_layer: float
    attention: Literal["sdpa", "eager"]

    def in_step(self, layers: int, *, padded: bool = False) -> float:
        """Operators of one step of a model with so many layers, its Linears left out."""
        if padded:
            return self.padded_per_layer * layers + self.padded_fixed
        return self.per_layer * layers + self.fixed


class Counted(Entry):
    """The whole file: the versions it was counted with, and the architectures by model_type."""

    transformers: str
    torch: str
    architectures: dict[str, Operators]


@cache
def counted() -> Counted:
    """All that was counted. CatalogError for a broken file."""
    return read_entries("operators.yaml", Counted)


def operators_of(model_type: str) -> Operators | None:
    """What a step of this architecture launches; None for one that was not counted."""
    return counted().architectures.get(model_type)
