"""Sizes as people write them, and back: bytes ("8GiB", "800MB") and counts of tokens ("32k").

GiB is 2^30 bytes and GB is 10^9: the two are never mixed. A `k` of tokens is 1024, because contexts are powers of two.
"""

from __future__ import annotations

import re

from onecard.errors import InputError

KIB = 1024
MIB = 1024**2
GIB = 1024**3
GB = 10**9

_SIZE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": GB,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024**4,
}
_COUNT_UNITS = {"": 1, "k": 1024, "m": 1024**2}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of "8GiB", "8 GB", "1.5gib" or "800MiB"; the unit is required. InputError otherwise."""
    match = _NUMBER.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or unit not in _SIZE_UNITS:
        raise InputError(
            f"'{text}' is not a size of memory",
            allowed="a number with a unit: B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)",
            next_step="write it like 8GiB",
        )
    return round(float(match[1]) * _SIZE_UNITS[unit])


def parse_count(text: str) -> int:
    """A whole number of tokens: "4096", "32k" (32 x 1024) or "1M" (1024 x 1024). InputError otherwise."""
    match = _NUMBER.fullmatch(text)
    unit = match[2].lower() if match else "?"
    count = float(match[1]) * _COUNT_UNITS[unit] if match and unit in _COUNT_UNITS else 0.5
    if count < 1 or count != int(count):
        raise InputError(
            f"'{text}' is not a number of tokens",
            allowed="a whole number above zero, with k for 1024 or M for 1024 x 1024 if you like",
            next_step="write it like 4096 or 32k",
        )
    return int(count)


def format_bytes(count: int) -> str:
    """Bytes for people, in powers of 1024: "3.84 GiB", "52 MiB", "1.1 KiB", "17 B"."""
    sign, size = ("-", -count) if count < 0 else ("", count)
    # From 100 MiB on in GiB, so that a column of model sizes keeps one unit.
    if size >= 100 * MIB:
        return f"{sign}{size / GIB:.2f} GiB"
    for name, unit in (("MiB", MIB), ("KiB", KIB)):
        if size >= unit:
            return f"{sign}{size / unit:.{1 if size < 10 * unit and size % unit else 0}f} {name}"
    return f"{sign}{size} B"


def format_count(count: int) -> str:
    """Tokens for people: 131072 is "128k", 40960 is "40k", 1048576 is "1M", 2000 stays "2000"."""
    for name, unit in (("M", 1024**2), ("k", 1024)):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)
