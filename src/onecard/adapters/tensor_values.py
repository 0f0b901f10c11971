"""Are a tensor's numbers finite, and is any of them not zero? Read from the raw bytes, for F32, BF16 and F16, little-endian.

IEEE 754: a number is infinite or not a number exactly when all its exponent bits are set. The bytes that hold the exponent are
taken out by slicing and masked with `bytes.translate`, so that 50 MB take a fraction of a second without numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
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
