from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onecard.planner.ledger import TAGS, Line, ledger

lines = st.builds(
    Line,
    part=st.sampled_from(["weights", "cache"]),
    owner=st.sampled_from(["base", "vision", "process"]),
    bytes=st.integers(0, 2**40),
    tag=st.sampled_from(TAGS),
    source=st.just("here"),
    kind=st.sampled_from(["weights", "cache", "working", "process"]),
)


@given(st.lists(lines, max_size=12))
def test_the_total_is_the_sum_however_it_is_cut(some: list[Line]) -> None:
    whole = ledger(some)
    assert whole.total_bytes == sum(line.bytes for line in some)
    assert whole.total_bytes == sum(whole.bytes_tagged(tag) for tag in TAGS)
    assert whole.total_bytes == sum(whole.of(owner).total_bytes for owner in whole.owners)


def test_empty_lines_are_left_out_and_owners_keep_their_order() -> None:
    some = [
        Line("a", "vision", 1, "exact", "here", "weights"),
        Line("b", "base", 0, "exact", "here", "weights"),
        Line("c", "base", 2, "assumed", "here", "cache"),
        Line("d", "vision", 3, "fitted", "here", "working"),
    ]
    whole = ledger(some)
    assert [line.part for line in whole.lines] == ["a", "c", "d"]
    assert whole.owners == ("vision", "base")
    assert whole.bytes_of_kind("cache") == 2
