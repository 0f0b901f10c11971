"""Server-sent events survive any cutting of the bytes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import EngineFailed
from onecard.wire.events import LARGEST_EVENT_BYTES, EventReader, encode_event


def read(pieces: list[bytes]) -> list[str]:
    reader = EventReader("somewhere")
    return [event for piece in pieces for event in reader.feed(piece)] + reader.finish()


@given(
    texts=st.lists(st.text(max_size=20), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    ending=st.sampled_from([b"\n", b"\r\n"]),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(texts: list[str], cuts: list[int], ending: bytes) -> None:
    events = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    stream = b"".join(encode_event(event) for event in events).replace(b"\n", ending)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert read([stream[a:b] for a, b in pairwise(places)]) == events


def test_comments_and_other_fields_are_skipped_and_data_lines_joined() -> None:
    assert read([b": ping\n\nevent: x\nid: 1\ndata: a\ndata:b\n\n\n\ndata:  c\n\n"]) == ["a\nb", " c"]


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert read([b"data: a\n\ndata: [DONE]"]) == ["a", "[DONE]"]


def test_bytes_that_are_not_utf8_are_an_error() -> None:
    with pytest.raises(EngineFailed, match="UTF-8"):
        read([b"data: \xff\n\n"])


@pytest.mark.parametrize("line", [b"x" * 2**20, b"data: " + b"x" * 2**20 + b"\n"], ids=["one line", "many lines"])
def test_an_event_without_end_is_an_error_and_not_a_full_memory(line: bytes) -> None:
    with pytest.raises(EngineFailed, match="without end"):
        read([line] * (LARGEST_EVENT_BYTES // 2**20 + 2))
