from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.units import GIB
from onecard.fleet.schema import Fleet
from onecard.planner.room import Room, frontier, largest, largest_concurrency, largest_context, with_model
from onecard.planner.shapes import ModelShape

MakeFleet = Callable[..., Fleet]


@settings(deadline=None, max_examples=60)
@given(
    gib=st.floats(3, 100),
    context=st.integers(16, 32768),
    callers=st.integers(1, 32),
    quantization=st.sampled_from(["none", "int8", "nf4", "awq"]),
)
def test_the_largest_context_and_concurrency_fit_and_one_more_does_not(
    make_fleet: MakeFleet, mistral: ModelShape, gib: float, context: int, callers: int, quantization: str
) -> None:
    room = Room(round(gib * GIB), {"base": mistral}, on_cpu=False)
    fleet = make_fleet(quantization=quantization, context=context, concurrency=callers)
    longest, most = largest_context(fleet, "base", room), largest_concurrency(fleet, "base", room)
    for limit, least, cap, key in ((longest, 16, 32768, "context"), (most, 1, 4096, "concurrency")):
        if limit == 0:
            assert not room.holds(with_model(fleet, "base", **{key: least}))
            continue
        assert room.holds(with_model(fleet, "base", **{key: limit}))
        assert limit == cap or not room.holds(with_model(fleet, "base", **{key: limit + 1}))


@given(
    low=st.integers(1, 50),
    more=st.integers(0, 5000),
    slope=st.integers(0, 1000),
    curve=st.integers(0, 50),
    step=st.integers(1, 64),
    room=st.integers(-100, 10**8),
)
def test_the_largest_is_found_on_lines_curves_and_steps(
    low: int, more: int, slope: int, curve: int, step: int, room: int
) -> None:
    def spare(n: int) -> int:
        return room - slope * (n // step) - curve * n * n

    found = largest(low, low + more, spare)
    holding = [n for n in range(low, low + more + 1) if spare(n) >= 0]
    assert found == (holding[-1] if holding else 0)


def test_a_limit_takes_few_looks() -> None:
    looks = []

    def spare(n: int) -> int:
        looks.append(n)
        return 20_000_000_000 - 131_072 * n - 2 * n * n

    assert largest(16, 1_048_576, spare) > 50_000
    assert len(looks) <= 12


@settings(deadline=None, max_examples=20)
@given(gib=st.floats(3, 60), context=st.integers(512, 9000), callers=st.integers(1, 70))
def test_the_frontier_is_what_each_limit_says_and_never_rises(
    make_fleet: MakeFleet, mistral: ModelShape, gib: float, context: int, callers: int
) -> None:
    room = Room(round(gib * GIB), {"base": mistral}, on_cpu=False)
    fleet = make_fleet(context=context, concurrency=callers)
    shown = frontier(fleet, "base", room)
    for rows in (shown.by_context, shown.by_callers):
        asked, most = [row[0] for row in rows], [row[1] for row in rows]
        assert asked == sorted(set(asked))
        assert most == sorted(most, reverse=True)
        assert most.count(0) <= 1
    by_context = dict(shown.by_context)
    if context in by_context:
        assert by_context[context] == largest_concurrency(fleet, "base", room)
    by_callers = dict(shown.by_callers)
    if callers in by_callers:
        assert by_callers[callers] == largest_context(fleet, "base", room)


def test_what_is_remembered_of_a_fleet_is_never_another_fleets(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    room = Room(24 * GIB, {"base": mistral}, on_cpu=False)
    adapted = {"adapter": "style@production", "recipe": {"lora": {"rank": 64}}}
    fleets = [make_fleet(), make_fleet(context=2048), make_fleet(agent=adapted), make_fleet(quantization="int8")]
    fleets += [fleets[2].model_copy(update={"agents": fleets[0].agents})]
    for fleet in fleets * 2:
        assert room.need(fleet) == room.ledger(fleet).total_bytes
    on_cpu = Room(24 * GIB, {"base": mistral}, on_cpu=True)
    assert on_cpu.need(fleets[0]) == on_cpu.ledger(fleets[0]).total_bytes != room.need(fleets[0])
