"""A file that is too large for plain HTTP; the transfers themselves are in test_fetch_run."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onecard.errors import InputError
from onecard.weights.fetch import FileState, Listing, RemoteFile
from onecard.weights.fetch_transfer import PLAIN_LIMIT_BYTES, Courier, Track
from onecard.weights.hub_access import Access


def test_a_file_that_only_the_other_protocol_hands_out_is_refused_before_it_starts(tmp_path: Path) -> None:
    large = RemoteFile("model.safetensors", PLAIN_LIMIT_BYTES + 1, "a" * 64)
    track = Track(Listing("org/name", "main", "c" * 40, (large,)), large)
    hub: Any = SimpleNamespace()
    with pytest.raises(InputError, match="hf-xet") as error:
        Courier(Access(), tmp_path, threading.Event(), hub).fetch(FileState(large, "absent"), track)
    assert "hf download org/name" in (error.value.next_step or "")
