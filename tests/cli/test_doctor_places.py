"""Places that are there, not there yet, in the way, or on a volume that is full."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from onecard.cli.doctor_places import existing, on_network, place, read_places, write_fault


def test_a_place_that_is_not_there_yet_is_judged_by_the_folder_above(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    made = place("models", tmp_path / "a" / "b", "HF_HOME")
    assert made.fault is None and 0 < made.free_bytes <= made.total_bytes
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert place("models", tmp_path / "file" / "hub", "HF_HOME").fault == f"{tmp_path / 'file'} is not a folder"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_volume_is_seen_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: full)
        assert write_fault(tmp_path) == "No space left on device"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="an administrator may write anywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert write_fault(tmp_path) == "Permission denied"


def test_who_put_a_cache_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "ONECARD_MODELS",
        "HF_DATASETS_CACHE",
        "HF_HOME",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "data"))
    by_what = {one.what: one for one in read_places(tmp_path / "store")}
    assert (by_what["models"].path, by_what["models"].set_by) == (tmp_path / "home" / "hub", "HF_HOME")
    assert (by_what["data sets"].path, by_what["data sets"].set_by) == (tmp_path / "data", "HF_DATASETS_CACHE")
    assert by_what["onecard's cache"].set_by == "default" and by_what["adapter store"].set_by == "the fleet file"


@pytest.mark.parametrize(("kind", "network"), [("nfs4", True), ("fuse.sshfs", True), ("ext4", False)])
def test_the_innermost_mount_says_whose_volume_it_is(
    kind: str, network: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="nfs"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert on_network(tmp_path / "models") is network
    assert on_network(tmp_path.with_name(tmp_path.name + "-beside")) is True
