"""Every file is read once; the memory of hashes may be lost, broken or unwritable without harm."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from onecard.weights import hashes
from onecard.weights.hashes import content_digests, memory_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really hashed."""
    done: list[str] = []
    real = hashes._hash

    def counting(file: Path, *rest: object) -> str:
        done.append(file.name)
        return real(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(hashes, "_hash", counting)
    return done


def two_files(folder: Path) -> list[Path]:
    files = [folder / "a.safetensors", folder / "b.safetensors"]
    for file in files:
        file.write_bytes(file.name.encode() * 1000)
    return files


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path: Path, reads: list[str]) -> None:
    files = two_files(tmp_path)
    expected = [sha256(file) for file in files]
    assert content_digests(files) == expected
    assert content_digests(files) == expected
    assert reads == ["a.safetensors", "b.safetensors"]
    files[1].write_bytes(files[1].read_bytes()[::-1])
    os.utime(files[1], ns=(1, 1))
    assert content_digests(files) == [sha256(file) for file in files]
    assert reads[2:] == ["b.safetensors"]


def test_a_link_shares_the_hash_of_its_file(tmp_path: Path, reads: list[str]) -> None:
    [file, _] = two_files(tmp_path)
    (tmp_path / "link").symlink_to(file)
    assert content_digests([file]) == content_digests([tmp_path / "link"])
    assert reads == ["a.safetensors"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": "short"}', b"\xff"])
def test_a_broken_memory_is_ignored_and_written_anew(tmp_path: Path, reads: list[str], content: bytes) -> None:
    files = two_files(tmp_path)
    memory_file().parent.mkdir(parents=True)
    memory_file().write_bytes(content)
    assert content_digests(files) == [sha256(file) for file in files]
    content_digests(files)
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, reads: list[str], cache: Path) -> None:
    files = two_files(tmp_path)
    cache.write_text("a file where the folder should be")
    for _ in range(2):
        assert content_digests(files) == [sha256(file) for file in files]
    assert len(reads) == 4


def test_the_memory_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]) -> None:
    monkeypatch.setattr(hashes, "_REMEMBERED_FILES", 1)
    files = two_files(tmp_path)
    content_digests(files)
    content_digests(files)
    assert reads == ["a.safetensors", "b.safetensors", "a.safetensors"]
    assert [file.name for file in memory_file().parent.iterdir()] == [memory_file().name]


def test_progress_runs_from_nothing_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "_CHUNK_BYTES", 1000)
    files = two_files(tmp_path)
    total = sum(file.stat().st_size for file in files)
    for _ in range(2):
        seen: list[tuple[int, int]] = []
        content_digests(files, lambda done, of: seen.append((done, of)))  # noqa: B023
        assert seen == sorted(seen)
        assert seen[-1] == (total, total)
        assert {of for _, of in seen} == {total}


def test_a_forgotten_hash_is_taken_anew_and_the_others_are_kept(tmp_path: Path, reads: list[str]) -> None:
    files = two_files(tmp_path)
    content_digests(files)
    hashes.forget([files[0]])
    content_digests(files)
    assert reads == ["a.safetensors", "b.safetensors", "a.safetensors"]
