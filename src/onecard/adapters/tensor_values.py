"""Are a tensor's numbers finite, is any of them not zero, does a LoRA pair act? Read from raw bytes: F32, BF16, F16, little-endian.

IEEE 754: a number is infinite or not a number exactly when all its exponent bits are set. The bytes that hold the exponent are
taken out by slicing and masked with `bytes.translate`, so that 50 MB take a fraction of a second without numpy.
"""

from __future__ import annotations

import random
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from operator import mul
from pathlib import Path

from onecard.adapters.safetensors_header import TensorEntry

CHUNK_BYTES = 4 << 20  # a multiple of every element's size
WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}

# F16 has its five exponent bits in the top byte; F32 and BF16 have seven there and the eighth on top of the byte below.
_TOP_FULL_F16 = bytes(int(byte & 0x7C == 0x7C) for byte in range(256))
_TOP_FULL = bytes(int(byte & 0x7F == 0x7F) for byte in range(256))
_EIGHTH_SET = bytes(byte >> 7 for byte in range(256))
_SIGNED_ZERO = b"\x00\x80"


def all_finite(data: bytes, dtype: str) -> bool:
    """True if no number in the bytes is an infinity or NaN."""
    width = WIDTHS[dtype]
    top = data[width - 1 :: width]
    if dtype == "F16":
        return 1 not in top.translate(_TOP_FULL_F16)
    full = top.translate(_TOP_FULL)
    if 1 not in full:
        return True
    eighth = data[width - 2 :: width].translate(_EIGHTH_SET)
    return int.from_bytes(full, "little") & int.from_bytes(eighth, "little") == 0


def all_zero(data: bytes, dtype: str) -> bool:
    """True if every number in the bytes is +0 or -0."""
    width = WIDTHS[dtype]
    if data[width - 1 :: width].translate(None, _SIGNED_ZERO):
        return False
    return all(not data[byte::width].translate(None, b"\x00") for byte in range(width - 1))


def chunks(file: Path, entry: TensorEntry) -> Iterator[bytes]:
    """The bytes of one tensor, a few MB at a time, never splitting a number."""
    left = entry.end - entry.start
    with file.open("rb") as reader:
        reader.seek(entry.start)
        while left:
            data = reader.read(min(left, CHUNK_BYTES))
            if not data:
                return
            left -= len(data)
            yield data


def is_finite(file: Path, entry: TensorEntry) -> bool:
    """`all_finite` over one tensor of a file."""
    return all(all_finite(data, entry.dtype) for data in chunks(file, entry))


def is_zero(file: Path, entry: TensorEntry) -> bool:
    """`all_zero` over one tensor of a file."""
    return all(all_zero(data, entry.dtype) for data in chunks(file, entry))


def product_acts(file: Path, b: TensorEntry, a: TensorEntry) -> bool:
    """True unless B @ A is zero but for rounding; B is [outputs, rank], A is [rank, inputs], both finite.

    Freivalds' check: a matrix that is not zero does not take a random vector x to zero. B (A x) is computed in float64 and compared
    with the sum of its terms' magnitudes. Stops at the first output that moves, which in a trained adapter is the first.
    """
    source = random.Random(0)
    x = [source.uniform(0.5, 1.5) * source.choice((-1, 1)) for _ in range(a.shape[1])]
    inner, scale = [], []
    for row in rows(file, a):
        inner.append(sum(map(mul, row, x)))
        scale.append(sum(map(abs, map(mul, row, x))))
    return any(abs(sum(map(mul, row, inner))) > 1e-9 * sum(map(abs, map(mul, row, scale))) for row in rows(file, b))


def rows(file: Path, entry: TensorEntry) -> Iterator[Sequence[float]]:
    """The rows of a matrix as numbers, read one after the other."""
    width = entry.shape[1] * WIDTHS[entry.dtype]
    with file.open("rb") as reader:
        reader.seek(entry.start)
        for _ in range(entry.shape[0]):
            yield numbers(reader.read(width), entry.dtype)


def numbers(data: bytes, dtype: str) -> Sequence[float]:
    """The numbers that the bytes hold. A BF16 is the upper half of an F32."""
    if dtype == "F16":
        return struct.unpack(f"<{len(data) // 2}e", data)
    if dtype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        data = bytes(wide)
    found = array("f", data)
    if sys.byteorder == "big":
        found.byteswap()
    return found
