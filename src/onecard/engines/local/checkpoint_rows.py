"""A checkpoint's folder again with trained rows in its embedding and head; every other weight file is shared by a link.

Tensors are copied a few MB at a time, so a model of any size takes no more memory than its rows. Only the files that hold the
embedding or the head are written; the rest are hard links, or symbolic ones to another disk, and cost no room.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from onecard.errors import InputError
from onecard.weights.headers import LocalFile, Tensor, read_header
from onecard.weights.inventory import weight_files

CHUNK_BYTES = 4 << 20
INDEX = "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BytesDone = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class TrainedRows:
    """`values[i]` is the row `ids[i]` of a weight; [rows, hidden], fp32. Ids may lie behind the weight's end, without a gap."""

    ids: tuple[int, ...]
    values: torch.Tensor


@dataclass(frozen=True)
class WrittenCheckpoint:
    """Names of the weight files that were written anew and of those that are links, and the rows the vocabulary has now."""

    rewritten: tuple[str, ...]
    shared: tuple[str, ...]
    vocabulary: int


@dataclass(frozen=True)
class Shards:
    """The weight files of a checkpoint and what each holds, by its header."""

    files: Mapping[Path, Sequence[Tensor]]

    @classmethod
    def of(cls, folder: Path) -> Shards:
        return cls({file: read_header(LocalFile(file)) for file in weight_files(folder)})

    def find(self, module: str) -> Tensor | None:
        """The weight of a module. Some checkpoints leave out the first parts of their modules' names."""
        wanted = f"{module}.weight"
        tensors = [tensor for held in self.files.values() for tensor in held]
        exact = [tensor for tensor in tensors if tensor.name == wanted]
        ends = [tensor for tensor in tensors if wanted.endswith(f".{tensor.name}")]
        return exact[0] if exact else ends[0] if len(ends) == 1 else None

    def holds(self, name: str) -> bool:
        return any(tensor.name == name for held in self.files.values() for tensor in held)


def write_with_rows(
    base: Path, target: Path, changed: Mapping[str, TrainedRows], on_bytes: BytesDone = lambda done, total: None
) -> WrittenCheckpoint:
    """Writes the weight files and their index into an existing folder. `changed` maps tensor names to rows.

    InputError for a weight that is no matrix of 16 or 32-bit floats, or rows that leave a gap behind its end.
    """
    shards = Shards.of(base)
    to_write = {file: held for file, held in shards.files.items() if any(tensor.name in changed for tensor in held)}
    total = sum(tensor.bytes for held in to_write.values() for tensor in held)
    done, grown, vocabulary = 0, 0, 0
    for file, held in shards.files.items():
        if file not in to_write:
            link(file, target / file.name)
            continue
        writer = _ShardWriter(file, held, changed)
        writer.write(target / file.name, lambda copied, before=done: on_bytes(before + copied, total))  # type: ignore[misc]
        done += sum(tensor.bytes for tensor in held)
        grown += writer.grown_bytes
        vocabulary = max(vocabulary, writer.vocabulary)
    if (base / INDEX).is_file():
        _write_index(base / INDEX, target / INDEX, grown)
    written = tuple(file.name for file in to_write)
    return WrittenCheckpoint(written, tuple(f.name for f in shards.files if f not in to_write), vocabulary)


def bytes_to_write(base: Path, changed: Mapping[str, TrainedRows]) -> int:
    """The room on the disk that `write_with_rows` needs, but for headers."""
    files = Shards.of(base).files.values()
    added = sum(int(rows.values.nbytes) for rows in changed.values())
    return added + sum(t.bytes for held in files if any(t.name in changed for t in held) for t in held)


def copy_tensors(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Writes a new safetensors file with those tensors of another whose names are wanted."""
    held = [tensor for tensor in read_header(LocalFile(source)) if wanted(tensor.name)]
    _ShardWriter(source, held, {}).write(target, lambda copied: None)


def link(source: Path, target: Path) -> None:
    """The file under a second name; where the disk cannot, a symbolic link to it."""
    real = source.resolve()
    with suppress(OSError):
        os.link(real, target)
        return
    target.symlink_to(real)


class _ShardWriter:
    """One weight file with some of its tensors changed and grown."""

    def __init__(self, source: Path, held: Sequence[Tensor], changed: Mapping[str, TrainedRows]) -> None:
        self._source, self._held, self._changed = source, held, changed
        self.grown_bytes, self.vocabulary = 0, 0
        for tensor in held:
            if tensor.name in changed:
                more = _rows_behind(tensor, changed[tensor.name], str(source))
                self.grown_bytes += more * _row_bytes(tensor)
                self.vocabulary = max(self.vocabulary, tensor.shape[0] + more)

    def write(self, target: Path, on_bytes: Callable[[int], None]) -> None:
        with self._source.open("rb") as reader, target.open("xb") as writer:
            data_start = 8 + struct.unpack("<Q", reader.read(8))[0]
            writer.write(self._header())
            copied = 0
            for tensor in self._held:
                start = writer.tell()
                reader.seek(data_start + tensor.start)
                for size in _chunks(tensor.bytes):
                    writer.write(reader.read(size))
                    copied += size
                    on_bytes(copied)
                if tensor.name in self._changed:
                    _put_rows(writer, start, tensor, self._changed[tensor.name], str(self._source))
            writer.flush()
            os.fsync(writer.fileno())

    def _header(self) -> bytes:
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        position = 0
        for tensor in self._held:
            more = 0
            if tensor.name in self._changed:
                more = _rows_behind(tensor, self._changed[tensor.name], str(self._source))
            shape = [tensor.shape[0] + more, *tensor.shape[1:]] if more else list(tensor.shape)
            end = position + tensor.bytes + (more * _row_bytes(tensor) if more else 0)
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [position, end]}
            position = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def _rows_behind(tensor: Tensor, rows: TrainedRows, where: str) -> int:
    """How many rows a weight grows by."""
    if tensor.dtype not in DTYPES or len(tensor.shape) != 2 or tensor.shape[1] != rows.values.shape[1]:
        raise InputError(
            f"{tensor.name} is {tensor.dtype} of shape {list(tensor.shape)}, and the rows have {rows.values.shape[1]} numbers",
            where=where,
            allowed="a matrix of F32, F16 or BF16 as wide as the rows",
        )
    known = tensor.shape[0]
    more: int = max(0, max(rows.ids) + 1 - known)
    if gap := set(range(known, known + more)) - set(rows.ids):
        raise InputError(f"{tensor.name} has {known} rows, and no row is given for {min(gap)}", where=where)
    return more


def _row_bytes(tensor: Tensor) -> int:
    return tensor.bytes // tensor.shape[0]


def _put_rows(writer: IO[bytes], start: int, tensor: Tensor, rows: TrainedRows, where: str) -> None:
    """Writes the rows over the copied weight and behind it; the writer then stands at the weight's new end."""
    values = rows.values.to(DTYPES[tensor.dtype])
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"the trained rows of {tensor.name} are too large for {tensor.dtype}", where=where)
    end = writer.tell()
    for row, value in zip(rows.ids, values, strict=True):
        writer.seek(start + row * _row_bytes(tensor))
        writer.write(value.contiguous().view(torch.uint8).numpy().tobytes())
        end = max(end, writer.tell())
    writer.seek(end)


def _chunks(size: int) -> list[int]:
    whole, rest = divmod(size, CHUNK_BYTES)
    return [CHUNK_BYTES] * whole + ([rest] if rest else [])


def _write_index(source: Path, target: Path, grown_bytes: int) -> None:
    """The index as it is, with the new total; every tensor stays in its file."""
    index = json.loads(source.read_bytes())
    metadata = index.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("total_size"), int):
        metadata["total_size"] += grown_bytes
    target.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
