"""The cache: what is there is judged by its bytes, and huggingface_hub finds what is put there."""

from __future__ import annotations

import os
from hashlib import sha1, sha256
from pathlib import Path

import pytest

from onecard.errors import InputError
from onecard.weights.fetch import FileState, Listing, RemoteFile
from onecard.weights.fetch_cache import RepoPlace, digest_of, discard, free_bytes, link_snapshot, publish, states_of

COMMIT = "c" * 40
WEIGHTS = os.urandom(100_000)
CONFIG = b'{"model_type": "llama"}'
LARGE = RemoteFile("model.safetensors", len(WEIGHTS), sha256(WEIGHTS).hexdigest())
SMALL = RemoteFile("config.json", len(CONFIG), sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest())
LISTING = Listing("org/name", "main", COMMIT, (SMALL, LARGE))


@pytest.fixture(autouse=True)
def _own(own_environment: None) -> None:
    pass


@pytest.fixture
def place(tmp_path: Path) -> RepoPlace:
    place = RepoPlace(tmp_path, "org/name")
    (place.folder / "blobs").mkdir(parents=True)
    return place


def states(place: RepoPlace) -> dict[str, FileState]:
    return {one.file.name: one for one in states_of(LISTING, [SMALL, LARGE], place.cache)}


def whole(place: RepoPlace) -> Path:
    place.blob(SMALL).write_bytes(CONFIG)
    place.blob(LARGE).write_bytes(WEIGHTS)
    return link_snapshot(LISTING, [SMALL, LARGE], place.cache)


def test_whole_is_what_has_the_size_and_the_hash(place: RepoPlace) -> None:
    whole(place)
    assert {name: one.state for name, one in states(place).items()} == {
        "config.json": "whole",
        "model.safetensors": "whole",
    }


@pytest.mark.parametrize("file", [SMALL, LARGE])
def test_one_wrong_bit_is_seen_though_name_and_size_are_right(place: RepoPlace, file: RemoteFile) -> None:
    whole(place)
    content = bytearray(place.blob(file).read_bytes())
    content[len(content) // 2] ^= 1
    place.blob(file).write_bytes(content)
    state = states(place)[file.name]
    assert (state.state, state.held_bytes, state.freed_bytes) == ("damaged", 0, file.size)
    assert state.fault == "its hash is not the hub's"
    discard(place, state, COMMIT)
    assert not place.blob(file).exists() and not place.partial(file).exists()
    assert states(place)[file.name].state == "absent"


def test_a_short_file_keeps_its_beginning(place: RepoPlace) -> None:
    snapshot = whole(place)
    place.blob(LARGE).write_bytes(WEIGHTS[:40_000])
    state = states(place)[LARGE.name]
    assert (state.state, state.held_bytes) == ("damaged", 40_000)
    assert "40,000 bytes instead of 100,000" in (state.fault or "")
    discard(place, state, COMMIT)
    assert not (snapshot / LARGE.name).exists(), "nobody may take it for whole any more"
    assert place.partial(LARGE).read_bytes() == WEIGHTS[:40_000]


def test_a_beginning_is_partial_and_one_that_is_too_long_is_not(place: RepoPlace) -> None:
    place.partial(LARGE).write_bytes(WEIGHTS[:7])
    assert (states(place)[LARGE.name].state, states(place)[LARGE.name].held_bytes) == ("partial", 7)
    place.partial(LARGE).write_bytes(WEIGHTS + b"more")
    assert states(place)[LARGE.name].state == "absent"


def test_a_cache_without_links_counts_too(place: RepoPlace) -> None:
    snapshot = place.snapshot(COMMIT)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(CONFIG)
    (snapshot / "model.safetensors").write_bytes(WEIGHTS)
    assert all(one.state == "whole" for one in states(place).values())
    link_snapshot(LISTING, [SMALL, LARGE], place.cache)
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_huggingface_hub_finds_what_was_linked(place: RepoPlace) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    snapshot = whole(place)
    found = hf_hub_download("org/name", "model.safetensors", cache_dir=place.cache, local_files_only=True)
    assert found == str(snapshot / "model.safetensors")
    scanned = scan_cache_dir(place.cache)
    assert not scanned.warnings and [repo.repo_id for repo in scanned.repos] == ["org/name"]


def test_links_hold_when_the_cache_is_moved(place: RepoPlace, tmp_path: Path) -> None:
    whole(place)
    place.folder.rename(tmp_path / "models--org--moved")
    moved = RepoPlace(tmp_path, "org/moved").snapshot(COMMIT)
    assert (moved / "model.safetensors").read_bytes() == WEIGHTS


def test_without_links_a_second_name_stands_in(place: RepoPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    snapshot = whole(place)
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (snapshot / "model.safetensors").unlink()
    link_snapshot(LISTING, [SMALL, LARGE], place.cache)
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_an_index_that_names_what_is_not_there_makes_no_model(place: RepoPlace) -> None:
    index = b'{"weight_map": {"t": "model-00009-of-00009.safetensors"}}'
    file = RemoteFile("model.safetensors.index.json", len(index), sha1(b"blob %d\0" % len(index) + index).hexdigest())
    place.blob(file).write_bytes(index)
    place.blob(SMALL).write_bytes(CONFIG)
    with pytest.raises(InputError, match="model-00009-of-00009"):
        link_snapshot(LISTING, [SMALL, file], place.cache)
    assert not place.ref("main").exists()


def test_a_commit_needs_no_name(place: RepoPlace) -> None:
    place.blob(SMALL).write_bytes(CONFIG)
    place.blob(LARGE).write_bytes(WEIGHTS)
    link_snapshot(Listing("org/name", COMMIT, COMMIT, LISTING.files), [SMALL, LARGE], place.cache)
    assert not (place.folder / "refs").exists()


def test_publishing_is_a_rename(place: RepoPlace) -> None:
    place.partial(LARGE).write_bytes(WEIGHTS)
    publish(place, LARGE)
    assert not place.partial(LARGE).exists() and digest_of(place.blob(LARGE), LARGE.digest) == LARGE.digest


def test_free_space_is_asked_of_the_volume_that_will_hold_it(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there" / "yet") > 0
