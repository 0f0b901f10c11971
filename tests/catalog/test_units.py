"""Sizes and counts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.units import GIB, MIB, format_bytes, format_count, parse_count, parse_size
from onecard.errors import InputError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * GIB),
        ("8 GiB", 8 * GIB),
        ("8GB", 8_000_000_000),
        ("1.5gib", 3 * GIB // 2),
        ("800MiB", 800 * MIB),
        (".5 GiB", GIB // 2),
        ("17B", 17),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_read_with_their_unit(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["8", "", "GiB", "8 GiBs", "8Gi", "-8GiB", "1e3GiB", "8,5GiB", "nan GiB", "infGB"])
def test_a_size_without_a_known_unit_is_refused_with_an_example(text):
    with pytest.raises(InputError, match=r"is not a size of memory.*write it like 8GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "count"), [("4096", 4096), ("32k", 32768), ("32K", 32768), ("1M", 1048576), ("0.5k", 512), ("4.", 4)]
)
def test_a_k_of_tokens_is_1024(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "0", "-4", "1.5", "0.0001k", "32kk", "32 GiB", "four"])
def test_a_count_that_is_no_whole_number_is_refused(text):
    with pytest.raises(InputError, match=r"is not a number of tokens"):
        parse_count(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (24 * 1024, "24 KiB"),
        (1090, "1.1 KiB"),
        (3 * MIB, "3 MiB"),
        (512 * MIB, "0.50 GiB"),
        (4123168604, "3.84 GiB"),
        (-GIB, "-1.00 GiB"),
    ],
)
def test_bytes_are_shown_in_powers_of_1024(count, text):
    assert format_bytes(count) == text


def test_counts_are_shown_short_only_when_exact():
    assert [format_count(n) for n in (2000, 4096, 40960, 131072, 1048576, 100)] == [
        "2000",
        "4k",
        "40k",
        "128k",
        "1M",
        "100",
    ]


@given(st.integers(1, 10**9))
def test_what_is_shown_as_a_count_reads_back_the_same(count):
    assert parse_count(format_count(count)) == count


@given(st.integers(0, 10**14))
def test_what_is_shown_as_bytes_reads_back_nearly(count):
    assert parse_size(format_bytes(count)) == pytest.approx(count, rel=0.06)
