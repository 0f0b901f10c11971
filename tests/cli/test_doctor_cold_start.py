"""Starts that fail, hang or say nonsense; a start that works is timed in test_doctor.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.cli.doctor_cold_start import Opened, measure, parse_parts, read_kept, read_through
from onecard.weights.start_times import kept_file

OPENED = Opened("org/model", "/nowhere", "none")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_broken_library_is_the_fault_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cold = measure(OPENED)
    assert cold.fault == "libcudart.so.12: cannot open shared object file"
    assert [name for name, _ in cold.parts] == ["start python"]
    assert read_kept() is None


def test_a_start_that_hangs_keeps_the_parts_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cold = measure(OPENED, timeout_s=1.5)
    assert cold.fault == "it was not done within 1.5 s"


def test_lines_that_are_no_parts_are_left_out() -> None:
    text = 'hello\n{"part": "a", "seconds": 1.5}\n[1]\n{"part": "b"}\n{"part": "c", "sec'
    assert parse_parts(text) == (("a", 1.5),)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": "x", "model": "m"}', '{"at": 1, "model": "m", "parts": [1]}'])
def test_a_kept_file_that_is_none_is_as_if_there_were_none(text: str) -> None:
    kept_file().parent.mkdir(parents=True)
    kept_file().write_text(text)
    assert read_kept() is None


def test_all_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "b.safetensors").write_bytes(b"y" * 24)
    (tmp_path / "other.bin").write_bytes(b"z")
    assert read_through(tmp_path) == 1024
