"""The header of a safetensors file, read with suspicion and without the safetensors package, which the plain install lacks.

Layout: 8 bytes little-endian length, that many bytes of JSON, then the tensors back to back. The checks are those of the
format's own reader (huggingface/safetensors, README "Format"), with a smaller limit on the header: adapters need little.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from onecard.errors import AdapterRefused

HEADER_LIMIT_BYTES = 16 << 20
# The shortest entry of a tensor takes 55 bytes, 4 colons and 3 brackets. Headers with many more of them are made to fill the memory.
_BYTES_PER_COLON = _BYTES_PER_BRACKET = 10
METADATA = "__metadata__"
BYTES_PER_ELEMENT = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: where its bytes stand in the file (absolute offsets), its dtype as the format spells it, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Every tensor of the file by name, in the order of the bytes; AdapterRefused with what is wrong otherwise."""
    size = file.stat().st_size
    with file.open("rb") as reader:
        first = reader.read(8)
        if len(first) < 8:
            raise _refused(file, f"{size} bytes are too few for a safetensors file")
        length = struct.unpack("<Q", first)[0]
        if length > HEADER_LIMIT_BYTES:
            raise _refused(file, f"the header says it is {length:,} bytes, over the limit of {HEADER_LIMIT_BYTES:,}")
        if 8 + length > size:
            raise _refused(file, f"cut off: the header says it is {length:,} bytes and the file has {size:,}")
        header = reader.read(length)
    entries = [_entry(file, name, value, 8 + length) for name, value in _parse(file, header) if name != METADATA]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_contiguous(file, entries, 8 + length, size)
    return {entry.name: entry for entry in entries}


def shown(text: object, limit: int = 120) -> str:
    """What a file says, for a message: in ASCII, without line breaks and control characters, cut to a length."""
    plain = ascii(text)[1:-1] if isinstance(text, str) else ascii(text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def _parse(file: Path, header: bytes) -> list[tuple[str, Any]]:
    if not header.startswith(b"{"):
        raise _refused(file, "the header does not begin with '{'")
    brackets = header.count(b"{") + header.count(b"[")
    if brackets > 64 + len(header) // _BYTES_PER_BRACKET or header.count(b":") > 64 + len(header) // _BYTES_PER_COLON:
        raise _refused(file, "the header holds far more keys or brackets than tensors need")
    try:
        pairs = _Pairs(json.loads(header.decode("utf-8"), object_pairs_hook=_Pairs))
    except (ValueError, RecursionError) as error:
        raise _refused(file, f"the header is not valid JSON ({str(error)[:200]})") from None
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen:
            raise _refused(file, f"tensor {shown(name)} is listed twice")
        seen.add(name)
        if name == METADATA and not (isinstance(value, _Pairs) and all(isinstance(text, str) for _, text in value)):
            raise _refused(file, f"{METADATA} is not an object of texts")
    return pairs


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as they stood, so that a key given twice is seen."""

    __slots__ = ()


def _entry(file: Path, name: str, value: Any, data_start: int) -> TensorEntry:
    fields = dict(value) if isinstance(value, _Pairs) else {}
    if not isinstance(value, _Pairs) or len(value) != 3 or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _refused(file, f"the entry of {shown(name)} is not dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_PER_ELEMENT:
        raise _refused(
            file, f"{shown(name)} has the dtype {shown(dtype)}", allowed=", ".join(sorted(BYTES_PER_ELEMENT))
        )
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _refused(file, f"{shown(name)} has a shape or offsets that are not whole numbers")
    start, end = offsets
    if end - start != prod(shape) * BYTES_PER_ELEMENT[dtype]:
        raise _refused(file, f"{shown(name)} has {end - start:,} bytes, which do not hold {dtype} of shape {shape}")
    return TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + end)


def _sizes(value: Any) -> bool:
    """A plain list of a few whole numbers from 0 to 2^63."""
    if not isinstance(value, list) or isinstance(value, _Pairs) or len(value) > 8:
        return False
    return all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def _check_contiguous(file: Path, entries: list[TensorEntry], data_start: int, size: int) -> None:
    """No hole, no overlap, nothing behind the last tensor: every byte belongs to exactly one tensor."""
    position = data_start
    for entry in entries:
        if entry.start != position:
            word = "overlaps the tensor before it" if entry.start < position else "leaves a hole before it"
            raise _refused(file, f"{shown(entry.name)} {word}")
        position = entry.end
    if position != size:
        word = "cut off" if position > size else "longer than its tensors"
        raise _refused(file, f"{word}: the tensors end at byte {position:,} and the file has {size:,}")


def _refused(file: Path, problem: str, allowed: str | None = None) -> AdapterRefused:
    return AdapterRefused(problem, where=str(file), allowed=allowed, next_step="save the adapter again")
