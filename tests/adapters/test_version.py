"""Which version a reference means, while others publish and remove."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from onecard.adapters.aliases import Aliases
from onecard.adapters.version import read_manifest, resolved
from onecard.errors import AdapterRefused, UnknownName


def asked(reference: str, moments: list[tuple[list[str], Aliases]]) -> str:
    """Resolves while the adapter goes from one moment to the next each time the aliases are read."""
    passing: Iterator[tuple[list[str], Aliases]] = iter(moments)
    now = [next(passing)]

    def aliases() -> Aliases:
        now[0] = next(passing, now[0])
        return now[0][1]

    return resolved(reference, lambda: now[0][0], aliases, "writer/style", "here")


def test_a_version_published_between_two_looks_is_not_gone() -> None:
    moments = [(["v0001"], Aliases(candidate="v0001")), (["v0001", "v0002"], Aliases(candidate="v0002"))]
    assert asked("candidate", moments) == "v0002"


def test_a_version_let_go_and_removed_between_two_looks_is_not_missed() -> None:
    before = (["v0001", "v0002"], Aliases(production="v0001"))
    between = (["v0002"], Aliases(production="v0001"))
    after = (["v0002"], Aliases(production="v0002"))
    assert asked("production", [before, between, after]) == "v0002"


def test_a_version_needs_no_aliases() -> None:
    def corrupt() -> Aliases:
        raise AssertionError("read although nobody asked for an alias")

    assert resolved("v0001", lambda: ["v0001"], corrupt, "writer/style", "here") == "v0001"


def test_what_is_gone_is_said() -> None:
    with pytest.raises(UnknownName, match=r"points at v0002, which is gone\. Allowed: v0001"):
        asked("production", [(["v0001"], Aliases(production="v0002"))])


def test_a_manifest_that_is_not_there_is_refused() -> None:
    with pytest.raises(AdapterRefused, match="no manifest"):
        read_manifest(None, "here", "writer", "style", "v0001")
