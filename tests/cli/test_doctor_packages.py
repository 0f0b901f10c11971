"""Versions are compared as pip compares them; builds are read from the files that say them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from onecard.cli.doctor_packages import (
    allows,
    bitsandbytes_libraries,
    numbers,
    parse_constraints,
    read_packages,
    torch_build,
    unmet,
)

RELEASES = st.lists(st.integers(0, 30), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
CLAUSES = st.tuples(st.sampled_from(["==", "!=", ">=", "<=", ">", "<"]), RELEASES).map("".join)


@given(st.lists(CLAUSES, max_size=3).map(",".join), RELEASES)
def test_specifiers_mean_what_pip_means(specifier: str, version: str) -> None:
    assert allows(specifier, version) == (version in SpecifierSet(specifier))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.13.0+cpu", (2, 13)),
        ("2.13.1", (2, 13, 1)),
        ("5.16.1rc1", (5, 16, 1)),
        ("580.95.05", (580, 95, 5)),
        ("x", ()),
    ],
)
def test_release_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert numbers(version) == expected


def test_pins_without_comments() -> None:
    assert parse_constraints("# x==1\ntorch==2.13.0  # first\nfree>=1\n\n") == {"torch": "2.13.0"}


def test_requirements_of_extras_count_and_what_is_not_installed_does_not() -> None:
    asked = ["click>=8.1", 'trl<1.17,>=1.16; extra == "local"', 'ray[serve]<2.61; extra == "ray"', "PyYAML>=6"]
    assert unmet(asked, {"click": "8.5", "trl": "0.9", "pyyaml": "5.1"}) == (
        ("trl", "0.9", "<1.17,>=1.16"),
        ("pyyaml", "5.1", ">=6"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from typing import Optional\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", ("12.8", None)),
        ("cuda = None\nhip = '7.1.25424'\n", (None, "7.1.25424")),
        ("cuda: str | None = None\nhip = None\n", (None, None)),
        ("cuda = (", (None, None)),
    ],
)
def test_torchs_build(text: str, expected: tuple[str | None, str | None], tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(text)
    assert torch_build(tmp_path) == expected


def test_no_torch_has_no_build(tmp_path: Path) -> None:
    assert torch_build(None) == torch_build(tmp_path) == (None, None)


def test_libraries_of_bitsandbytes(tmp_path: Path) -> None:
    for name in ("libbitsandbytes_cuda128.so", "libbitsandbytes_rocm70.so", "libbitsandbytes_cpu.so", "other.so"):
        (tmp_path / name).touch()
    assert bitsandbytes_libraries(tmp_path) == ("cpu", "cuda128", "rocm70")
    assert bitsandbytes_libraries(None) == ()


def test_this_environment_is_read_without_developers_tools() -> None:
    packages = read_packages()
    assert packages.unmet == ()
    assert "pytest" not in packages.pins and packages.pins["torch"] == "2.13.0"
    assert packages.installed["click"] == packages.pins["click"]
