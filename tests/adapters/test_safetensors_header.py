"""The header reader against broken files, and against the format's own reader."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onecard.adapters.safetensors_header import HEADER_LIMIT_BYTES, read_header
from onecard.errors import AdapterRefused

safetensors = pytest.importorskip("safetensors")

ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ONE = json.dumps(entry([1], 0, 1, "U8")).encode()
GOOD = file_of({"__metadata__": {"format": "pt"}, "b": entry([2], 8, 12, "BF16"), "a": entry([2, 1], 0, 8)}, bytes(12))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("header") / "x.safetensors"


def accepted(file: Path, content: bytes) -> bool:
    """Whether our reader takes it; anything but AdapterRefused fails the test. What we take, the format's reader takes too."""
    file.write_bytes(content)
    try:
        entries = read_header(file)
    except AdapterRefused as error:
        assert error.where and error.problem and error.next_step
        return False
    with safetensors.safe_open(str(file), framework="np") as theirs:
        assert set(theirs.keys()) == set(entries)
        for name in entries:
            assert tuple(theirs.get_slice(name).get_shape()) == entries[name].shape
    return True


def test_a_good_file_is_read_in_the_order_of_its_bytes(file: Path) -> None:
    assert accepted(file, GOOD)
    entries = read_header(file)
    assert list(entries) == ["a", "b"]
    assert (entries["b"].dtype, entries["b"].shape) == ("BF16", (2,))
    assert entries["b"].end == len(GOOD)
    assert entries["a"].end - entries["a"].start == 8


@ONE_FILE
@given(st.integers(0, len(GOOD) - 1))
def test_a_cut_file_is_refused(file: Path, length: int) -> None:
    assert not accepted(file, GOOD[:length])


@ONE_FILE
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@example(0, 255)
@example(7, 127)
def test_a_changed_byte_never_breaks_the_reader(file: Path, position: int, byte: int) -> None:
    accepted(file, GOOD[:position] + bytes([byte]) + GOOD[position + 1 :])


NUMBERS = st.one_of(
    st.integers(-2, 16), st.sampled_from([2**63, 2**64, 10**30]), st.booleans(), st.none(), st.just(1.5)
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F99", "f32", ""]),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    }
)


@ONE_FILE
@given(st.dictionaries(st.text(max_size=3), ENTRIES, max_size=3), st.integers(0, 24))
@example({"a": entry([2], 0, 8), "b": entry([1], 8, 12)}, 12)
@example({"a": entry([], 0, 4)}, 4)
@example({"__metadata__": entry([], 0, 4)}, 0)
@example({"__metadata__": {"format": "pt"}}, 0)
def test_any_header_is_accepted_only_if_the_format_accepts_it(file: Path, header: dict[str, object], size: int) -> None:
    accepted(file, file_of(header, bytes(size)))


@ONE_FILE
@given(st.binary(max_size=64))
def test_noise_is_refused(file: Path, noise: bytes) -> None:
    accepted(file, noise)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "too few"),
        (struct.pack("<Q", 10**10) + b"{}", "over the limit"),
        (struct.pack("<Q", HEADER_LIMIT_BYTES) + b"{}", "cut off"),
        (file_of(b"[]"), "does not begin"),
        (file_of(b"{"), "not valid JSON"),
        (file_of(b'{"a": ' + b"[" * 200_000), "more keys or brackets"),
        (file_of(b'{"a": ' + b"[" * 100_000 + b" " * 1_000_000), "not valid JSON"),
        (file_of(b"{" + b'"a":1,' * 100_000 + b'"b":1}'), "more keys or brackets"),
        (file_of(b'{"a\xff": 1}'), "not valid JSON"),
        (file_of(b'{"a": %s}' % (b"9" * 5000)), "not valid JSON"),
        (file_of({"a": []}), "not dtype, shape"),
        (file_of({"a": {**entry([1], 0, 4), "more": 1}}, bytes(4)), "not dtype, shape"),
        (file_of({"a": entry([1], 0, 8)}, bytes(8)), "do not hold"),
        (file_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "overlaps"),
        (file_of({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "hole"),
        (file_of({"a": entry([1], 0, 4)}, bytes(8)), "longer than its tensors"),
        (file_of({"a": entry([4], 0, 16)}, bytes(8)), "cut off"),
        (file_of(b'{"a":%s,"a":%s}' % (ONE, ONE), b"x"), "twice"),
        (file_of({"__metadata__": {"a": 1}}), "object of texts"),
        (file_of({"a": entry([-1], 0, -4)}), "not whole numbers"),
        (file_of({"a": entry([1], 0, 4, "C64")}, bytes(4)), "dtype"),
    ],
)  # fmt: skip
def test_each_defect_is_named(file: Path, content: bytes, problem: str) -> None:
    file.write_bytes(content)
    with pytest.raises(AdapterRefused, match=problem):
        read_header(file)


def test_a_header_of_ten_gigabytes_is_not_read(file: Path) -> None:
    """A sparse file really as long as its header says: the limit must hold, not the end of the file."""
    with file.open("wb") as writer:
        writer.write(struct.pack("<Q", 10 * 10**9))
        writer.truncate(10 * 10**9 + 8)
    with pytest.raises(AdapterRefused, match="over the limit"):
        read_header(file)
    file.unlink()


def test_many_names_given_twice_are_refused_at_once(file: Path) -> None:
    pairs = ",".join(f'"{number}":1' for number in [*range(200_000), 199_999])
    file.write_bytes(file_of(b"{" + pairs.encode() + b"}"))
    with pytest.raises(AdapterRefused, match="twice"):
        read_header(file)
