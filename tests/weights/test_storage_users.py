"""Who uses a model: real processes with its files open, mapped, or named when they were started."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from onecard.weights.storage import Held
from onecard.weights.storage_users import users_of

pytestmark = [
    pytest.mark.usefixtures("own_environment"),
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="open files are told by /proc"),
]
_spec = importlib.util.spec_from_file_location("hub_cache_maker", Path(__file__).with_name("hub_cache_maker.py"))
assert _spec and _spec.loader
maker: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(maker)

READY = "print('ready', flush=True); import time; time.sleep(60)"
OPENS = f"import sys; f = open(sys.argv[1], 'rb'); {READY}"
# As safetensors maps a file: the descriptor is closed afterwards, and Python's own mmap would keep a copy of it.
MAPS = f"""
import ctypes, os, sys
file, libc = os.open(sys.argv[1], os.O_RDONLY), ctypes.CDLL(None)
size = ctypes.c_size_t(os.fstat(file).st_size)
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(None, size, 1, 2, file, ctypes.c_long(0)) not in (None, ctypes.c_void_p(-1).value)
os.close(file)
{READY}
"""


@contextmanager
def running(code: str, *arguments: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def held(folder: Path, id: str = "o/m") -> Held:
    return Held(id, "hub", folder)


@pytest.mark.parametrize("code", [OPENS, MAPS])
def test_an_open_or_mapped_file_is_seen(tmp_path: Path, code: str) -> None:
    used = maker.write_model(tmp_path, "o/m")
    idle = maker.write_model(tmp_path, "o/idle", b"i" * 4096)
    # Relative to a working folder would not name the model on the command line; a link does not either.
    link = tmp_path / "link"
    link.symlink_to(next((used / "snapshots").glob("*/model.safetensors")))
    with running(code, str(link)) as pid:
        found = users_of([held(used), held(idle, "o/idle")])
    assert list(found) == ["o/m"]
    assert f"process {pid}" in found["o/m"]
    assert "open" in found["o/m"]


def test_a_mapped_file_of_the_shared_store_is_seen(tmp_path: Path) -> None:
    used = maker.write_model(tmp_path, "o/m")
    (blob,) = (blob for blob in (used / "blobs").iterdir() if blob.stat().st_size > 4096)
    stored = maker.share(tmp_path, blob)
    with running(MAPS, str(stored)):
        assert list(users_of([held(used)])) == ["o/m"]


def test_a_download_that_runs_is_seen(tmp_path: Path) -> None:
    used = maker.write_model(tmp_path, "o/m")
    partial = used / "blobs" / "abc.incomplete"
    link = tmp_path / "link"
    link.symlink_to(partial)
    with running(OPENS.replace("'rb'", "'wb'"), str(link)):
        assert list(users_of([held(used)])) == ["o/m"]


def test_a_process_that_was_started_with_the_id_is_seen_and_one_with_a_longer_id_is_not(tmp_path: Path) -> None:
    used = maker.write_model(tmp_path, "o/m")
    with running(READY, "o/m") as pid:
        assert f"process {pid}" in users_of([held(used)])["o/m"]
    with running(READY, "o/m-2"):
        assert users_of([held(used)]) == {}
