"""Verification: every kind of damage is found in every kind of folder, and whoever verifies uses nothing."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.weights.storage import Held
from onecard.weights.storage_scan import scan
from onecard.weights.storage_verify import Verified, files_of, verify

_spec = importlib.util.spec_from_file_location("hub_cache_maker", Path(__file__).with_name("hub_cache_maker.py"))
assert _spec and _spec.loader
maker: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(maker)

WEIGHTS_BYTES = 256 * 1024


@pytest.fixture
def cache(tmp_path: Path, own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "hub"
    place.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    return place


def found(id: str) -> Held:
    return next(model for model in scan([]).models if model.id == id)


def states(result: Verified) -> dict[str, str]:
    return {file.name: file.state for file in result.files}


def damage(file: Path, position: int = 1000) -> None:
    """Flips one bit, and leaves size and times as they were, as a rotting disk does."""
    status = file.stat()
    with file.open("r+b") as writer:
        writer.seek(position)
        byte = writer.read(1)
        writer.seek(position)
        writer.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def own_folder(place: Path) -> Held:
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"w" * WEIGHTS_BYTES)
    return Held(str(place), "folder", place, fixed="yours")


def test_a_model_as_the_hub_gave_it_is_good(cache: Path) -> None:
    maker.write_model(cache, "o/m")
    result = verify(found("o/m"))
    assert result.good
    assert {(file.state, file.by) for file in result.files} == {("good", "hub")}
    assert states(result).keys() == {"config.json", "model.safetensors"}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, WEIGHTS_BYTES - 1))
def test_one_flipped_bit_is_found_wherever_it_is(cache: Path, position: int) -> None:
    repository = cache / "models--o--m"
    if not repository.exists():
        maker.write_model(cache, "o/m")
    weights = next((repository / "snapshots").glob("*/model.safetensors"))
    damage(weights, position)
    result = verify(found("o/m"))
    damage(weights, position)
    assert states(result) == {"config.json": "good", "model.safetensors": "damaged"}
    assert verify(found("o/m")).good


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_short_long_and_empty_files_are_damaged(cache: Path, name: str) -> None:
    repository = maker.write_model(cache, "o/m")
    blob = next((repository / "snapshots").glob(f"*/{name}")).resolve()
    content = blob.read_bytes()
    for wrong in (content[:-1], content + b"x", b""):
        blob.write_bytes(wrong)
        assert states(verify(found("o/m")))[name] == "damaged"


def test_a_missing_blob_and_a_missing_shard_are_named(cache: Path) -> None:
    repository = maker.write_model(cache, "o/m", revision="abc")
    index = b'{"weight_map": {"a": "model.safetensors", "b": "two.safetensors"}}'
    maker.add_file(repository, "abc", "model.safetensors.index.json", index, small=True)
    (repository / "snapshots" / "abc" / "model.safetensors").resolve().unlink()
    result = verify(found("o/m"))
    assert {file.name for file in result.bad} == {"model.safetensors", "two.safetensors"}
    assert {file.state for file in result.bad} == {"missing"}


def test_every_revision_is_hashed_and_a_shared_blob_once(cache: Path) -> None:
    repository = maker.write_model(cache, "o/m", revision="aaa")
    maker.write_model(cache, "o/m", b"x" * WEIGHTS_BYTES, revision="bbb", main=False)
    names = [expected.name for expected in files_of(found("o/m"))]
    assert sorted(names) == ["config.json", "model.safetensors", "model.safetensors@bbb"]
    damage(repository / "snapshots" / "bbb" / "model.safetensors")
    assert [file.name for file in verify(found("o/m")).bad] == ["model.safetensors@bbb"]


def test_a_blob_in_the_shared_store_goes_by_the_name_its_repository_gives_it(cache: Path) -> None:
    repository = maker.write_model(cache, "o/m")
    stored = maker.share(cache, *(b for b in (repository / "blobs").iterdir() if b.stat().st_size == WEIGHTS_BYTES))
    assert verify(found("o/m")).good
    damage(stored)
    assert [file.name for file in verify(found("o/m")).bad] == ["model.safetensors"]


def test_an_own_folder_is_remembered_at_first_sight(own_environment: None, tmp_path: Path) -> None:
    model = own_folder(tmp_path / "mine")
    first = verify(model)
    assert first.good
    assert set(states(first).values()) == {"new"}
    assert {(file.state, file.by) for file in verify(model).files} == {("good", "first sight")}
    damage(model.folder / "model.safetensors")
    assert states(verify(model)) == {"config.json": "good", "model.safetensors": "changed"}
    assert not verify(model).good, "it is not forgotten because it was said once"
    (model.folder / "config.json").unlink()
    assert states(verify(model))["config.json"] == "missing"


def test_a_change_of_ones_own_can_be_accepted_and_the_hubs_word_cannot(cache: Path, tmp_path: Path) -> None:
    model = own_folder(tmp_path / "mine")
    verify(model)
    damage(model.folder / "model.safetensors")
    (model.folder / "extra.txt").write_text("new")
    assert verify(model, accept=True).good
    assert {file.state for file in verify(model).files} == {"good"}
    repository = maker.write_model(cache, "o/m")
    damage(next((repository / "snapshots").glob("*/model.safetensors")))
    assert not verify(found("o/m"), accept=True).good


def test_a_folder_that_was_downloaded_is_compared_with_what_the_hub_said(own_environment: None, tmp_path: Path) -> None:
    import hashlib

    model = own_folder(tmp_path / "mine")
    weights = model.folder / "model.safetensors"
    notes = model.folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (notes / "model.safetensors.metadata").write_text(f"{'c' * 40}\n{digest}\n{time.time()}\n")
    result = verify(model)
    assert {file.name: file.by for file in result.files} == {"config.json": "nothing", "model.safetensors": "hub"}
    damage(weights)
    assert states(verify(model))["model.safetensors"] == "damaged"


def test_what_cannot_be_read_is_said_and_does_not_hang(own_environment: None, tmp_path: Path) -> None:
    model = own_folder(tmp_path / "mine")
    os.mkfifo(model.folder / "pipe")
    assert [(file.name, file.state) for file in verify(model).bad] == [("pipe", "unreadable")]


def test_verifying_is_no_use_and_counts_every_byte(cache: Path) -> None:
    maker.write_model(cache, "o/m", used_at=1_000_000)
    before, read = found("o/m"), []
    verify(before, read.append)
    assert found("o/m").used_at == before.used_at == 1_000_000
    assert sum(read) == sum(expected.file.stat().st_size for expected in files_of(before))
