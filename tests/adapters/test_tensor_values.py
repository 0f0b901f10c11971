"""Finiteness and zero read from raw bytes, against struct's own decoding."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.adapters import tensor_values
from onecard.adapters.safetensors_header import TensorEntry, read_header
from onecard.adapters.tensor_values import WIDTHS, all_finite, all_zero, is_finite, is_zero, product_acts, rows


def decoded(data: bytes, dtype: str) -> list[float]:
    if dtype == "BF16":
        words = struct.unpack(f"<{len(data) // 2}H", data)
        return [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in words]
    letter = {"F32": "f", "F16": "e"}[dtype]
    return list(struct.unpack(f"<{len(data) // WIDTHS[dtype]}{letter}", data))


# Bytes near the edges: zeros of both signs, the largest finite numbers, infinities and NaN of every width.
EDGES = st.sampled_from([0x00, 0x01, 0x7B, 0x7C, 0x7F, 0x80, 0xFB, 0xFC, 0xFF]) | st.integers(0, 255)


@pytest.mark.parametrize("dtype", sorted(WIDTHS))
@given(data=st.data())
def test_bytes_and_numbers_agree(dtype: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 6))
    content = bytes(data.draw(st.lists(EDGES, min_size=count * WIDTHS[dtype], max_size=count * WIDTHS[dtype])))
    numbers = decoded(content, dtype)
    assert all_finite(content, dtype) == all(map(math.isfinite, numbers))
    assert all_zero(content, dtype) == all(number == 0 for number in numbers)


def test_every_half_precision_number_is_judged_right() -> None:
    for word in range(1 << 16):
        content = struct.pack("<H", word)
        for dtype in ("F16", "BF16"):
            number = decoded(content, dtype)[0]
            assert all_finite(content, dtype) == math.isfinite(number)
            assert all_zero(content, dtype) == (number == 0)


@pytest.mark.parametrize("position", [0, 1, 999_999])
def test_one_bad_number_in_a_million_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    monkeypatch.setattr(tensor_values, "CHUNK_BYTES", 1 << 16)
    file = tmp_path / "numbers"
    content = bytearray(4_000_000)
    entry = TensorEntry("t", "F32", (1_000_000,), 7, 7 + len(content))
    file.write_bytes(b"header!" + content + b"another tensor")
    assert is_zero(file, entry)
    assert is_finite(file, entry)
    struct.pack_into("<f", content, 4 * position, math.nan)
    file.write_bytes(b"header!" + content + b"another tensor")
    assert not is_zero(file, entry)
    assert not is_finite(file, entry)


FORMATS = {"F32": "f", "F16": "e"}


def matrix(numbers: list[list[float]], dtype: str) -> tuple[str, tuple[int, int], bytes]:
    flat = [number for row in numbers for number in row]
    if dtype == "BF16":
        data = b"".join(struct.pack("<f", number)[2:] for number in flat)
    else:
        data = struct.pack(f"<{len(flat)}{FORMATS[dtype]}", *flat)
    return dtype, (len(numbers), len(numbers[0])), data


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize(
    ("b", "a", "acts"),
    [
        ([[1.0, -1.0]], [[2.0, 3.0, 4.0], [2.0, 3.0, 4.0]], False),  # the columns of B cancel
        ([[0.0, 5.0]], [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], False),  # they never meet
        ([[1.0, -1.0]], [[2.0, 3.0, 4.0], [2.0, 3.0, 4.25]], True),
        ([[0.0, 0.0], [0.0, 0.125]], [[1.0, 2.0, 3.0], [0.0, 0.0, 0.5]], True),  # one number alone
        ([[2.0**-12]], [[2.0**-12]], True),  # small is not zero
    ],
)
def test_a_pair_acts_unless_its_product_is_zero(
    dtype: str, b: list[list[float]], a: list[list[float]], acts: bool, tmp_path: Path, makes: ModuleType
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(makes.safetensors_bytes({"a": matrix(a, dtype), "b": matrix(b, dtype)}))
    entries = read_header(file)
    assert [list(row) for row in rows(file, entries["a"])] == a
    assert product_acts(file, entries["b"], entries["a"]) is acts
