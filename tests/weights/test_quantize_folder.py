"""The folder a checkpoint is made in: whole under its name or not there, one maker at a time, leftovers removed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from filelock import FileLock

from onecard.errors import DiskFull, InputError, MachineError, StoreBusy
from onecard.weights.quantize_folder import disk_errors, keep_files, making, partial_of, put_in_place


def made(partial: Path) -> Path:
    weights = partial / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    return weights


def test_it_appears_under_its_name_at_once(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "mini-nf4"
    with making(output) as partial:
        weights = made(partial)
        assert not output.exists()
        put_in_place(weights, output)
        assert (output / "model.safetensors").read_bytes() == b"weights"
    assert [entry.name for entry in output.parent.iterdir()] == ["mini-nf4"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_is_left_when_it_is_broken_off(tmp_path: Path, fault: type[BaseException]) -> None:
    with pytest.raises(fault), making(tmp_path / "mini-nf4") as partial:
        made(partial)
        raise fault
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    partial = partial_of(tmp_path / "mini-nf4")
    (partial / "weights").mkdir(parents=True)
    (partial / "weights" / "half.safetensors").write_bytes(b"half")
    (partial / "packages").symlink_to(tmp_path)
    (partial / "lock").touch()
    with making(tmp_path / "mini-nf4") as found:
        assert found == partial
        assert [entry.name for entry in partial.iterdir()] == ["lock"]
    assert tmp_path.exists()


def test_a_leftover_beside_a_whole_checkpoint_is_removed_too(tmp_path: Path) -> None:
    output = tmp_path / "mini-nf4"
    output.mkdir()
    (partial_of(output) / "weights").mkdir(parents=True)
    with pytest.raises(InputError, match="exists already"), making(output):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["mini-nf4"]


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    output = tmp_path / "mini-nf4"
    partial_of(output).mkdir()
    with FileLock(str(partial_of(output) / "lock")):
        (partial_of(output) / "theirs").touch()
        with pytest.raises(StoreBusy, match="making it now"), making(output):
            pass
        assert (partial_of(output) / "theirs").exists()


def test_somebody_who_made_it_meanwhile_keeps_theirs(tmp_path: Path) -> None:
    output = tmp_path / "mini-nf4"
    with pytest.raises(InputError, match="meanwhile"), making(output) as partial:
        weights = made(partial)
        output.mkdir()
        put_in_place(weights, output)
    assert not list(output.iterdir())


def test_the_tokenizer_and_the_licence_go_along_and_old_weights_do_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    for name in (
        "tokenizer.json",
        "chat_template.jinja",
        "LICENSE.txt",
        "README.md",
        "model.safetensors",
        "config.json",
    ):
        (source / name).write_text(name)
    keep_files(source, target)
    assert sorted(file.name for file in target.iterdir()) == ["LICENSE.txt", "chat_template.jinja", "tokenizer.json"]


def test_the_disks_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="bytes are free"), disk_errors(tmp_path / "not" / "there"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(MachineError, match="Not a directory"):
        (tmp_path / "file").touch()
        with making(tmp_path / "file" / "mini"):
            pass
