"""What safetensors files say of themselves: every tensor's name, dtype, shape and bytes, from their headers alone.

A header stands at the front of its file, so a few kilobytes tell the exact bytes of a checkpoint of any size, on this disk or
behind a reader of byte ranges. Layout: 8 bytes little-endian length, that many bytes of JSON, then the tensors back to back. Headers
are read with suspicion; the checks and dtypes are those of the format's own reader (safetensors 0.8).
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

from onecard.errors import InputError

HEADER_LIMIT_BYTES = 100_000_000
FIRST_READ_BYTES = 100_000  # holds most headers whole, so that most files cost one read
METADATA = "__metadata__"

BITS_PER_ELEMENT: Mapping[str, int] = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
PLAIN_FLOATS = ("BF16", "F16", "F32", "F64")

# Tensors that old checkpoints carry and that are no parameters: causal masks (Pythia's take 1% of its file), tables of positions.
_BUFFER = re.compile(r"(^|\.)(inv_freq|position_ids|num_batches_tracked|masked_bias)$")
_MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.(weight|qweight)$")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: `dtype` as the format spells it, `start` and `end` counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start

    @property
    def is_buffer(self) -> bool:
        """Whether it is a mask or a table that is computed anew at load, and no parameter."""
        mask = len(self.shape) == 4 and self.shape[:2] == (1, 1) and _MASK.search(self.name) is not None
        return mask or _BUFFER.search(self.name) is not None


@dataclass(frozen=True)
class HeaderSummary:
    """A checkpoint by its headers. Bytes are those of tensors, the headers left out.

    `bytes_by_dtype` counts every tensor; `buffer_bytes` is the part of it that is no parameter. `parameters` counts the elements of
    16, 32 and 64-bit floats: in a quantized checkpoint only what is not packed. `head_bytes`: the output head, where it is stored.
    """

    files: int
    tensors: int
    bytes_by_dtype: Mapping[str, int]
    parameters: int
    buffer_bytes: int = 0
    head_bytes: int = 0
    head_parameters: int = 0

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_by_dtype.values())

    @property
    def weight_bytes(self) -> int:
        """What a loader keeps: all but the buffers."""
        return self.total_bytes - self.buffer_bytes

    @property
    def packed(self) -> bool:
        """Whether a real part of the weights is held in less than 16 bits, or packed into integers."""
        floats = sum(self.bytes_by_dtype.get(dtype, 0) for dtype in PLAIN_FLOATS)
        return self.weight_bytes - floats > self.weight_bytes // 200


class ByteSource(Protocol):
    """Something that has a safetensors file's bytes. `where` and `next_step` go into errors."""

    @property
    def where(self) -> str: ...

    @property
    def next_step(self) -> str: ...

    @property
    def size(self) -> int | None:
        """Bytes of the whole file; None while it is not known, which it may be only before the first read."""

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, fewer only where the file ends."""


@dataclass
class LocalFile:
    """A file on this disk as a ByteSource."""

    file: Path
    next_step: str = "fetch the model again"

    @property
    def where(self) -> str:
        return str(self.file)

    @property
    def size(self) -> int | None:
        try:
            return self.file.stat().st_size
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=self.where, next_step=self.next_step) from None

    def read(self, start: int, length: int) -> bytes:
        try:
            with self.file.open("rb") as reader:
                reader.seek(start)
                return reader.read(length)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=self.where, next_step=self.next_step) from None


def read_header(source: ByteSource) -> list[Tensor]:
    """Every tensor of the file, in the order of the bytes. InputError with what is wrong with it otherwise."""
    first = source.read(0, FIRST_READ_BYTES)
    if len(first) < 8:
        raise _refused(source, f"{len(first)} bytes are too few for a safetensors file")
    length = struct.unpack("<Q", first[:8])[0]
    if length > HEADER_LIMIT_BYTES:
        raise _refused(source, f"the header says it is {length:,} bytes, over the limit of {HEADER_LIMIT_BYTES:,}")
    size = source.size
    if size is not None and 8 + length > size:
        raise _refused(source, f"cut off: the header says it is {length:,} bytes and the file has {size:,}")
    header = first[8 : 8 + length]
    if len(header) < length:
        header += source.read(8 + len(header), length - len(header))
    if len(header) < length:
        raise _refused(source, f"cut off: {len(header):,} of {length:,} bytes of the header came")
    tensors = [_tensor(source, name, value) for name, value in _parse(source, header) if name != METADATA]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_contiguous(source, tensors, None if size is None else size - 8 - length)
    return tensors


def summarize(headers: Iterable[Iterable[Tensor]]) -> HeaderSummary:
    """The files of one checkpoint as one. A tensor that stands in several files is counted once, as it is loaded once."""
    by_dtype: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    seen: set[str] = set()
    files = 0
    for tensors in headers:
        files += 1
        for tensor in tensors:
            if tensor.name in seen:
                continue
            seen.add(tensor.name)
            by_dtype[tensor.dtype] += tensor.bytes
            if tensor.is_buffer:
                sums["buffer_bytes"] += tensor.bytes
            elif tensor.dtype in PLAIN_FLOATS:
                sums["parameters"] += prod(tensor.shape)
            if _HEAD.search(tensor.name):
                sums["head_bytes"] += tensor.bytes
                sums["head_parameters"] += prod(tensor.shape)
    return HeaderSummary(
        files=files,
        tensors=len(seen),
        bytes_by_dtype=dict(by_dtype.most_common()),
        parameters=sums["parameters"],
        buffer_bytes=sums["buffer_bytes"],
        head_bytes=sums["head_bytes"],
        head_parameters=sums["head_parameters"],
    )


def read_local(files: Iterable[Path]) -> HeaderSummary:
    """A checkpoint on this disk. InputError for a file that is missing, cut off or no safetensors file."""
    return summarize(read_header(LocalFile(file)) for file in files)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as they stood, so that a key given twice is seen."""


def _parse(source: ByteSource, header: bytes) -> list[tuple[str, Any]]:
    if not header.startswith(b"{"):
        raise _refused(source, "the header does not begin with '{'")
    try:
        pairs = _Pairs(json.loads(header.decode("utf-8"), object_pairs_hook=_Pairs))
    except (ValueError, RecursionError):
        raise _refused(source, "the header is not valid JSON") from None
    if len({name for name, _ in pairs}) != len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _refused(source, f"tensor {_short(twice)} is listed twice")
    return pairs


def _tensor(source: ByteSource, name: str, value: Any) -> Tensor:
    fields = dict(value) if isinstance(value, _Pairs) else {}
    if set(fields) != {"dtype", "shape", "data_offsets"} or len(value) != 3:
        raise _refused(source, f"the entry of {_short(name)} is not dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    bits = BITS_PER_ELEMENT.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        known = ", ".join(sorted(BITS_PER_ELEMENT))
        raise _refused(source, f"{_short(name)} has the dtype {_short(str(dtype))}", allowed=known)
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _refused(source, f"{_short(name)} has a shape or offsets that are not whole numbers")
    start, end = offsets
    if (end - start) * 8 != prod(shape) * bits:
        raise _refused(
            source, f"{_short(name)} has {end - start:,} bytes, which do not hold {dtype} of shape {list(shape)}"
        )
    return Tensor(name, dtype, tuple(shape), start, end)


def _sizes(value: Any) -> bool:
    """A plain list of a few whole numbers from 0 to 2^63."""
    if not isinstance(value, list) or isinstance(value, _Pairs) or len(value) > 16:
        return False
    return all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def _check_contiguous(source: ByteSource, tensors: list[Tensor], data_bytes: int | None) -> None:
    """No hole, no overlap, nothing behind the last tensor: every byte belongs to exactly one tensor."""
    position = 0
    for tensor in tensors:
        if tensor.start != position:
            word = "overlaps the tensor before it" if tensor.start < position else "leaves a hole before it"
            raise _refused(source, f"{_short(tensor.name)} {word}")
        position = tensor.end
    if data_bytes is not None and position != data_bytes:
        word = "cut off" if position > data_bytes else "longer than its tensors"
        raise _refused(source, f"{word}: the tensors are {position:,} bytes and the file has {data_bytes:,} for them")


def _short(text: str) -> str:
    """A name out of a file, safe to print: control characters escaped, cut."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _refused(source: ByteSource, problem: str, allowed: str | None = None) -> InputError:
    return InputError(problem, where=source.where, allowed=allowed, next_step=source.next_step)
