"""What lies on the disk: real files, links, hard links, holes and shared blobs, told as a person would want them."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from onecard.weights.storage import Held, Storage
from onecard.weights.storage_memory import note_use
from onecard.weights.storage_scan import FleetNeeds, scan

_spec = importlib.util.spec_from_file_location("hub_cache_maker", Path(__file__).with_name("hub_cache_maker.py"))
assert _spec and _spec.loader
maker: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(maker)

KIB = 1024
WEIGHTS_BYTES = 256 * KIB
SPARE_BYTES = 32 * KIB  # whole blocks, and a config


@pytest.fixture
def cache(tmp_path: Path, own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "hub"
    place.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    return place


def found(storage: Storage, id: str) -> Held:
    return next(model for model in storage.models if model.id == id)


def test_nothing_there_but_what_the_package_brings(cache: Path) -> None:
    cache.rmdir()
    (mini,) = scan([]).models
    assert (mini.id, mini.place, mini.whole) == ("embedded:mini", "embedded", True)
    assert mini.fixed
    assert mini.bytes > 15_000_000


def test_a_model_of_the_hub_by_its_id_revision_size_and_form(cache: Path) -> None:
    config = {"torch_dtype": "float16", "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    maker.write_model(cache, "org/a-name", config=config, revision="c0ffee")
    model = found(scan([]), "org/a-name")
    assert (model.revision, model.revisions, model.whole, model.fixed) == ("c0ffee", 1, True, None)
    assert (model.quantization, model.dtype) == ("awq", "float16")
    assert WEIGHTS_BYTES <= model.bytes <= WEIGHTS_BYTES + SPARE_BYTES


def test_a_second_revision_with_the_same_weights_takes_no_more(cache: Path) -> None:
    maker.write_model(cache, "o/m", revision="aaa")
    one = found(scan([]), "o/m").bytes
    maker.write_model(cache, "o/m", revision="bbb", main=False)
    model = found(scan([]), "o/m")
    assert (model.revision, model.revisions, model.bytes) == ("aaa", 2, one)
    maker.write_model(cache, "o/m", b"x" * WEIGHTS_BYTES, revision="ccc", main=False)
    assert found(scan([]), "o/m").bytes >= one + WEIGHTS_BYTES


def test_a_hole_takes_no_room_and_an_unfinished_download_does(cache: Path) -> None:
    repository = maker.write_model(cache, "o/m")
    before = found(scan([]), "o/m").bytes
    with (repository / "blobs" / "hole").open("wb") as hole:
        hole.truncate(1 << 30)
    assert found(scan([]), "o/m").bytes < before + (1 << 20)
    (repository / "blobs" / "x.incomplete").write_bytes(b"p" * WEIGHTS_BYTES)
    assert found(scan([]), "o/m").bytes >= before + WEIGHTS_BYTES


@pytest.mark.parametrize("lack", ["weights", "blob", "config", "shard", "index", "snapshot"])
def test_a_model_that_is_not_whole_says_what_it_lacks(cache: Path, lack: str) -> None:
    repository = maker.write_model(cache, "o/m", revision="abc")
    snapshot = repository / "snapshots" / "abc"
    weights = snapshot / "model.safetensors"
    if lack == "weights":
        weights.unlink()
    elif lack == "blob":
        weights.resolve().unlink()
    elif lack == "config":
        (snapshot / "config.json").unlink()
    elif lack == "snapshot":
        for file in snapshot.iterdir():
            file.unlink()
        snapshot.rmdir()
    else:
        index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "model.safetensors"}})
        text = index if lack == "shard" else "{"
        maker.add_file(repository, "abc", "model.safetensors.index.json", text.encode(), small=True)
    model = found(scan([]), "o/m")
    assert not model.whole
    words = {"weights": "weights", "blob": "model.safetensors", "config": "config.json", "shard": "one.safetensors"}
    expected = {**words, "index": "index.json", "snapshot": "every file"}[lack]
    assert expected in " ".join(model.missing)


def test_a_form_that_cannot_be_counted_goes_by_its_own_name(cache: Path) -> None:
    maker.write_model(cache, "o/m", config={"quantization_config": {"quant_method": "hocuspocus"}})
    maker.write_model(cache, "o/broken", config={"text_config": 3, "dtype": 7})
    model, broken = found(scan([]), "o/m"), found(scan([]), "o/broken")
    assert (model.quantization, model.dtype) == ("hocuspocus", "unknown")
    assert (broken.quantization, broken.dtype) == ("none", "unknown")


def test_the_last_use_is_the_latest_sign_and_says_which(cache: Path) -> None:
    repository = maker.write_model(cache, "o/m", used_at=1_000_000)
    maker.write_model(cache, "o/idle", used_at=1_000_000)
    weights = next((repository / "snapshots").glob("*/model.safetensors"))
    assert (found(scan([]), "o/m").used_at, found(scan([]), "o/m").used_sign) == (1_000_000, "written")
    os.utime(weights, (2_000_000, 1_000_000))
    assert (found(scan([]), "o/m").used_at, found(scan([]), "o/m").used_sign) == (2_000_000, "read")
    note_use(weights.parent)
    model = found(scan([]), "o/m")
    assert model.used_sign == "loaded"
    assert model.used_at > 1_700_000_000
    assert found(scan([]), "o/idle").used_sign == "written"


def test_a_look_is_no_use(cache: Path) -> None:
    maker.write_model(cache, "o/m", used_at=1_000_000)
    assert scan([]) == scan([])
    assert found(scan([]), "o/m").used_at == 1_000_000


def test_fleets_need_by_id_by_path_and_by_a_path_into_the_cache(cache: Path, tmp_path: Path) -> None:
    repository = maker.write_model(cache, "o/m")
    maker.write_model(cache, "o/other")
    own = tmp_path / "fleet" / "models" / "mine"
    own.mkdir(parents=True)
    (own / "config.json").write_text('{"dtype": "float32"}')
    by_id = FleetNeeds(tmp_path / "fleet" / "id.yaml", ("o/m", "embedded:mini", "o/never-fetched"))
    by_path = FleetNeeds(
        tmp_path / "fleet" / "path.yaml", ("./models/mine", str(next((repository / "snapshots").iterdir())))
    )
    storage = scan([by_id, by_path])
    assert found(storage, "o/m").needed_by == (str(by_id.file), str(by_path.file))
    assert found(storage, "o/other").needed_by == ()
    assert found(storage, "embedded:mini").needed_by == (str(by_id.file),)
    mine = found(storage, str(own))
    assert (mine.place, mine.needed_by, mine.dtype, mine.whole) == ("folder", (str(by_path.file),), "float32", False)
    assert mine.fixed
    assert len(storage.models) == 4


def test_a_local_folder_goes_before_the_hub_as_it_does_when_it_is_loaded(cache: Path, tmp_path: Path) -> None:
    maker.write_model(cache, "o/m")
    (tmp_path / "o" / "m").mkdir(parents=True)
    storage = scan([FleetNeeds(tmp_path / "f.yaml", ("o/m",))])
    assert found(storage, "o/m").needed_by == ()
    assert found(storage, str(tmp_path / "o" / "m")).needed_by


def test_a_blob_in_the_shared_store_counts_for_each_and_once_in_all(cache: Path) -> None:
    blobs = []
    for id in ("o/one", "o/two"):
        repository = maker.write_model(cache, id)
        blobs += [blob for blob in (repository / "blobs").iterdir() if blob.stat().st_size == WEIGHTS_BYTES]
    maker.share(cache, *blobs)
    storage = scan([])
    one, two = found(storage, "o/one"), found(storage, "o/two")
    assert one.whole
    assert one.bytes >= WEIGHTS_BYTES
    assert storage.bytes - found(storage, "embedded:mini").bytes < 2 * WEIGHTS_BYTES
    assert storage.freed_bytes([one]) < SPARE_BYTES
    assert storage.freed_bytes([one, two]) >= WEIGHTS_BYTES


def test_what_a_hard_link_or_a_dataset_holds_is_not_freed(cache: Path, tmp_path: Path) -> None:
    linked = maker.write_model(cache, "o/linked", b"l" * WEIGHTS_BYTES)
    shared = maker.write_model(cache, "o/shared", b"s" * WEIGHTS_BYTES)
    (blob,) = (blob for blob in (linked / "blobs").iterdir() if blob.stat().st_size == WEIGHTS_BYTES)
    os.link(blob, tmp_path / "another-name")
    (blob,) = (blob for blob in (shared / "blobs").iterdir() if blob.stat().st_size == WEIGHTS_BYTES)
    data = cache / "datasets--o--d" / "blobs" / "x"
    data.parent.mkdir(parents=True)
    data.write_bytes(blob.read_bytes())
    maker.share(cache, blob, data)
    storage = scan([])
    for id in ("o/linked", "o/shared"):
        assert storage.freed_bytes([found(storage, id)]) < SPARE_BYTES, id


def test_a_repository_that_is_a_link_is_listed_and_left_alone(cache: Path, tmp_path: Path) -> None:
    repository = maker.write_model(cache, "o/m")
    repository.rename(tmp_path / "elsewhere")
    repository.symlink_to(tmp_path / "elsewhere")
    model = found(scan([]), "o/m")
    assert model.fixed
    assert model.whole
    assert model.bytes >= WEIGHTS_BYTES
