"""Promotion and rollback as pure functions: every rollback undoes exactly one promotion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.adapters.aliases import (
    REMEMBERED,
    Aliases,
    next_version_number,
    promoted,
    published,
    rolled_back,
    without,
)
from onecard.errors import Refusal

VERSIONS = st.integers(1, 6).map(lambda n: f"v{n:04d}")


@given(st.lists(VERSIONS, max_size=12), VERSIONS)
def test_rolling_back_restores_the_state_before_a_promotion(before: list[str], version: str) -> None:
    aliases = Aliases(candidate="v0009")
    for one in before:
        aliases = promoted(aliases, one)
    after = promoted(aliases, version)
    assert after.production == version
    if aliases.production is None:
        with pytest.raises(Refusal):
            rolled_back(after)
    elif aliases.production == version:
        assert after == aliases
    else:
        assert after.previous == aliases.production
        assert rolled_back(after) == aliases


def test_the_memory_of_productions_is_bounded() -> None:
    aliases = Aliases()
    for number in range(1, 3 * REMEMBERED):
        aliases = promoted(aliases, f"v{number:04d}")
    assert len(aliases.earlier) == REMEMBERED
    assert aliases.earlier[-1] == f"v{3 * REMEMBERED - 3:04d}"


def test_publishing_moves_only_the_candidate() -> None:
    aliases = Aliases(candidate="v0001", production="v0002", previous="v0001", earlier=("v0003",))
    assert published(aliases, "v0004") == aliases.model_copy(update={"candidate": "v0004"})


def test_what_an_alias_points_at_cannot_be_removed() -> None:
    aliases = Aliases(candidate="v0003", production="v0003", previous="v0002", earlier=("v0001", "v0002", "v0001"))
    with pytest.raises(Refusal, match="candidate and production"):
        without(aliases, "v0003")
    assert without(aliases, "v0001").earlier == ("v0002",)


def test_a_removed_number_is_never_given_again() -> None:
    assert next_version_number([], []) == 1
    assert next_version_number(["v0001", "v0003"], []) == 4
    assert next_version_number(["v0001"], ["v0001", "v0007"]) == 8
