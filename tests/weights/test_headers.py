"""Headers of safetensors files: of real files written by the format's own library, of lies, and of any bytes at all."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import InputError
from onecard.weights.headers import (
    BITS_PER_ELEMENT,
    FIRST_READ_BYTES,
    HEADER_LIMIT_BYTES,
    LocalFile,
    Tensor,
    read_header,
    read_local,
    summarize,
)
from onecard.weights.inventory import resolve, weight_files


class Bytes:
    """A file in memory as a ByteSource; remembers what was read of it."""

    where, next_step = "memory", "look again"

    def __init__(self, content: bytes, says_size: bool = True) -> None:
        self.content = content
        self.size = len(content) if says_size else None
        self.read_bytes = 0

    def read(self, start: int, length: int) -> bytes:
        part = self.content[start : start + length]
        self.read_bytes += len(part)
        return part


def packed(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_the_embedded_base_is_what_the_formats_own_library_says(tmp_path: Path) -> None:
    files = weight_files(resolve("embedded:mini", tmp_path))
    summary = read_local(files)
    with safetensors.safe_open(files[0], framework="np") as real:
        slices = {name: real.get_slice(name) for name in real.keys()}  # noqa: SIM118
    assert summary.tensors == len(slices)
    assert summary.parameters == sum(_elements(part.get_shape()) for part in slices.values())
    assert summary.total_bytes == 2 * summary.parameters == summary.weight_bytes
    assert dict(summary.bytes_by_dtype) == {"BF16": summary.total_bytes}
    assert not summary.packed


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


@pytest.mark.parametrize("dtype", sorted(BITS_PER_ELEMENT))
def test_every_dtype_has_the_size_the_formats_own_library_gives_it(dtype: str) -> None:
    size = BITS_PER_ELEMENT[dtype]  # bytes of eight elements
    content = packed({"a": entry([8], 0, size, dtype)}, bytes(size))
    assert read_header(Bytes(content)) == [Tensor("a", dtype, (8,), 0, size)]
    ((name, real),) = safetensors.deserialize(content)
    assert (name, real["dtype"], len(real["data"])) == ("a", dtype, size)


def test_a_header_longer_than_the_first_read_is_read_to_its_end_and_no_further() -> None:
    header = {f"layer.{number}.weight": entry([2], 8 * number, 8 * number + 8) for number in range(3000)}
    source = Bytes(packed(header, bytes(3000 * 8 + 0)))
    assert len(json.dumps(header)) > FIRST_READ_BYTES
    assert len(read_header(source)) == 3000
    assert source.read_bytes == 8 + len(json.dumps(header))


def test_a_source_that_does_not_know_its_size_is_believed_about_the_tensors() -> None:
    assert len(read_header(Bytes(packed({"a": entry([2], 0, 8)}, bytes(8)), says_size=False))) == 1


LIES = {
    "empty": (b"", "0 bytes are too few"),
    "seven bytes": (b"\0" * 7, "7 bytes are too few"),
    "an absurd length": (struct.pack("<Q", 2**63) + b"{}", "over the limit of 100,000,000"),
    "one byte over the limit": (struct.pack("<Q", HEADER_LIMIT_BYTES + 1), "over the limit"),
    "a header longer than the file": (struct.pack("<Q", 500) + b"{}", "cut off: the header says it is 500 bytes"),
    "no JSON": (packed(b"{nonsense"), "not valid JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "not valid JSON"),
    "an array": (packed(b"[]"), "does not begin with '{'"),
    "too deep": (packed(b'{"a":' * 100_000), "not valid JSON"),
    "twice": (packed(b'{"a":{},"a":{}}'), "'a' is listed twice"),
    "no dtype": (packed({"a": {"shape": [1], "data_offsets": [0, 4]}}), "is not dtype, shape and data_offsets"),
    "no object": (packed({"a": 3}), "is not dtype, shape and data_offsets"),
    "a dtype nobody has": (packed({"a": entry([1], 0, 4, "F33")}, bytes(4)), "has the dtype 'F33'"),
    "a dtype that is no text": (packed({"a": {**entry([1], 0, 4), "dtype": ["F32"]}}), "has the dtype"),
    "a negative size": (packed({"a": entry([-1], 0, 4)}, bytes(4)), "not whole numbers"),
    "half a size": (packed({"a": {**entry([1], 0, 4), "shape": [1.5]}}, bytes(4)), "not whole numbers"),
    "bytes that do not hold it": (packed({"a": entry([3], 0, 8)}, bytes(8)), "8 bytes, which do not hold F32"),
    "ends before it begins": (packed({"a": entry([1], 8, 4)}, bytes(8)), "do not hold"),
    "a hole": (packed({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "leaves a hole"),
    "an overlap": (packed({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "overlaps"),
    "data cut off": (packed({"a": entry([2], 0, 8)}, bytes(4)), "cut off: the tensors are 8 bytes"),
    "data behind": (packed({"a": entry([1], 0, 4)}, bytes(9)), "longer than its tensors"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_broken_header_is_refused_with_what_is_wrong(name: str) -> None:
    content, said = LIES[name]
    with pytest.raises(InputError) as refused:
        read_header(Bytes(content))
    assert said in refused.value.problem
    assert (refused.value.where, refused.value.next_step) == ("memory", "look again")


def test_a_name_that_would_steer_a_terminal_is_escaped() -> None:
    with pytest.raises(InputError) as refused:
        read_header(Bytes(packed({"\x1b[2Jbad": 1})))
    assert "\x1b" not in str(refused.value)
    assert "\\x1b[2Jbad" in refused.value.problem


def test_a_missing_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_header(LocalFile(tmp_path / "none.safetensors"))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(InputError):
        read_header(Bytes(content))


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_read_or_refused(header: object) -> None:
    with contextlib.suppress(InputError):
        read_header(Bytes(packed({"a": header, "__metadata__": {}})))


shapes = st.lists(
    st.tuples(st.sampled_from(["BF16", "F32", "I32"]), st.lists(st.integers(0, 5), max_size=3)), max_size=6
)


@given(shapes, st.integers(1, 3))
def test_sums_are_the_same_however_a_checkpoint_is_cut(parts: list[tuple[str, list[int]]], files: int) -> None:
    tensors, position = [], 0
    for number, (dtype, shape) in enumerate(parts):
        end = position + _elements(shape) * BITS_PER_ELEMENT[dtype] // 8
        tensors.append(Tensor(f"t{number}", dtype, tuple(shape), position, end))
        position = end
    whole = summarize([tensors])
    cut = summarize([tensors[start::files] for start in range(files)])
    assert whole.total_bytes == cut.total_bytes == position
    assert dict(whole.bytes_by_dtype) == dict(cut.bytes_by_dtype)
    assert (whole.parameters, whole.tensors) == (cut.parameters, cut.tensors)


def test_masks_and_tables_are_no_parameters() -> None:
    def one(name: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
        return Tensor(name, dtype, shape, 0, _elements(list(shape)) * BITS_PER_ELEMENT[dtype] // 8)

    buffers = [
        one("gpt_neox.layers.0.attention.bias", "BOOL", (1, 1, 2048, 2048)),
        one("gpt_neox.layers.0.attention.masked_bias", "F16", ()),
        one("gpt_neox.layers.0.attention.rotary_emb.inv_freq", "F32", (16,)),
        one("h.0.attn.bias", "F32", (1, 1, 1024, 1024)),
        one("vision_model.embeddings.position_ids", "I64", (1, 577)),
    ]
    weights = [one("h.0.attn.c_attn.bias", "F16", (2304,)), one("lm_head.weight", "F16", (100, 8))]
    summary = summarize([buffers + weights])
    assert summary.parameters == 2304 + 800
    assert summary.weight_bytes == 2 * (2304 + 800)
    assert summary.total_bytes == summary.weight_bytes + sum(tensor.bytes for tensor in buffers)
    assert (summary.head_parameters, summary.packed) == (800, False)


def test_a_tensor_in_two_files_counts_once() -> None:
    tensor = Tensor("a", "F16", (4,), 0, 8)
    assert summarize([[tensor], [tensor]]).total_bytes == 8
