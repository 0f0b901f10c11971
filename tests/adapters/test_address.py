"""Addresses: what they mean, and that no name can leave its folder."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.adapters.address import (
    Address,
    checked_name,
    is_version,
    number_of,
    parse_address,
    parse_reference,
    version_of,
)
from onecard.errors import InputError

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
REFERENCES = st.one_of(
    st.none(),
    st.sampled_from(["candidate", "production", "previous"]),
    st.integers(1, 10**6).map(version_of),
)


@given(NAMES, NAMES, REFERENCES)
def test_an_address_reads_back_as_it_was_written(agent: str, name: str, reference: str | None) -> None:
    address = Address(agent, name, reference)
    assert parse_address(str(address)) == address


@given(st.text(max_size=12))
def test_any_accepted_name_is_one_plain_path_part(text: str) -> None:
    try:
        checked_name("agent", text)
    except InputError as error:
        assert "Allowed" in str(error)
        return
    path = PurePosixPath("/store") / text
    assert path.parent == PurePosixPath("/store")
    assert path.name == text
    assert not text.startswith(".")
    assert text.isprintable()


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "a\\b", "/etc", "a\n", "a\0", ".hidden", "x" * 65, "\u00e9", "a@b", " a"]
)
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        checked_name("adapter", name)


@pytest.mark.parametrize(
    "text",
    ["writer", "writer/", "/style", "writer/style@", "writer/style@latest", "a/b/c", "writer/style@../v0001", "", "@"],
)
def test_a_wrong_address_says_the_form(text: str) -> None:
    with pytest.raises(InputError, match="Allowed"):
        parse_address(text)


def test_a_fleet_reference_needs_a_version() -> None:
    assert parse_reference("synth@production") == ("synth", "production")
    assert parse_reference("synth@v0003") == ("synth", "v0003")
    with pytest.raises(InputError, match="names no version"):
        parse_reference("synth")


@pytest.mark.parametrize(
    "text", ["v0000", "v1", "v001", "v00001", "V0001", "v0001\n", "v-001", "v\u0660\u0660\u0660\u0661", "0001"]
)
def test_a_version_has_one_spelling(text: str) -> None:
    assert not is_version(text)


@given(st.integers(1, 10**8))
def test_versions_count(number: int) -> None:
    assert is_version(version_of(number))
    assert number_of(version_of(number)) == number
