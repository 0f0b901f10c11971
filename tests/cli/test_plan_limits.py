from __future__ import annotations

import io

import pytest
from rich.console import Console

from onecard.cli.plan_limits import frontier_tables, limits_table
from onecard.planner.plan import ModelLimits
from onecard.planner.room import CONCURRENCY_CAP, Frontier

FRONTIER = Frontier("base", ((1024, 47), (4096, 11), (32768, 0)), tuple((2**n, 32768 >> n) for n in range(12)))


@pytest.mark.parametrize("width", [60, 78, 120])
def test_every_pair_is_shown_within_the_width(width: int) -> None:
    paper = io.StringIO()
    console = Console(width=width, file=paper, highlight=False)
    for made in frontier_tables(FRONTIER, width):
        console.print(made)
    lines = paper.getvalue().splitlines()
    words = paper.getvalue().split()
    assert max(map(len, lines)) <= width
    for part in ("1k", "4k", "32k", "47", "11", "none", "2,048", "16,384", "base:"):
        assert part in words
    assert words.count("callers") >= 2


def test_a_model_that_has_no_room_at_all_gets_no_table() -> None:
    assert frontier_tables(Frontier("base", ((1024, 0),), ((1, 0),)), 100) == []


def test_what_nothing_limits_says_so() -> None:
    paper = io.StringIO()
    remote = ModelLimits("far", "x/y", "remote", 4096, None, 4, None, 0.0, None)
    huge = ModelLimits("tiny", "x/z", "vllm", 512, 0, 4, CONCURRENCY_CAP, 1.0, None)
    Console(width=100, file=paper, highlight=False).print(limits_table([remote, huge]))
    rows = [line.split() for line in paper.getvalue().splitlines() if line.startswith(("far", "tiny"))]
    assert rows[0][-3:] == ["-", "4", "-"]
    assert rows[1][-3:] == ["none", "4", "4,096+"]
