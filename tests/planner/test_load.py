from __future__ import annotations

from collections import Counter
from itertools import islice
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.planner.load import LENGTHS, Load, Shape, asked_for


def load(*parts: float, new_tokens: int = 100, longest: int = 400) -> Load:
    shapes = tuple(Shape(f"a{number}", 50, new_tokens, longest, part) for number, part in enumerate(parts))
    return Load(shapes, callers=4, lines=4)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_every_agent_gets_its_part_of_the_requests(parts: list[float]) -> None:
    asked = load(*parts)
    seen = Counter(shape.agent for shape, _ in islice(asked_for(asked), 1000))
    for number, part in enumerate(parts):
        assert asked.part(f"a{number}") == pytest.approx(part / sum(parts))
        assert seen[f"a{number}"] == pytest.approx(1000 * part / sum(parts), abs=1 + len(parts))


def test_lengths_are_around_the_typical_one_and_cut_at_the_longest() -> None:
    lengths = [new for _, new in islice(asked_for(load(1.0)), 4 * LENGTHS)]
    assert median(lengths) == pytest.approx(100, rel=0.01)
    assert sorted(lengths)[round(0.95 * len(lengths))] == pytest.approx(139, rel=0.03)
    cut = [new for _, new in islice(asked_for(load(1.0, longest=100)), LENGTHS)]
    assert max(cut) == 100
    assert min(cut) < 70
    assert {new for _, new in islice(asked_for(load(1.0, new_tokens=1, longest=1)), LENGTHS)} == {1}


def test_the_same_load_asks_the_same() -> None:
    first, second = ([*islice(asked_for(load(1.0, 2.0)), 500)] for _ in range(2))
    assert first == second
    assert len({new for _, new in first}) > 50
