"""From an id to a folder, and from a folder to a fingerprint."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onecard.errors import InputError, MissingPart, UnknownName
from onecard.weights.inventory import fingerprint, list_embedded, read_config, resolve, weight_files

CONFIG = {"model_type": "mistral", "hidden_size": 64, "rope": {"theta": 1e4, "dtype": "bfloat16"}, "dtype": "bfloat16"}


@pytest.fixture(autouse=True)
def no_caches_of_mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def write_model(folder: Path, shards: int = 1, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    weight_map = {f"layer.{number}": name for number, name in enumerate(names * 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def cache_model(cache: Path, shards: int = 2, revision: str = "abc123") -> Path:
    """A snapshot as huggingface_hub leaves it: links into a folder of blobs, and a ref. Returns the snapshot."""
    place = cache / "models--mistralai--Mistral-7B-v0.3"
    files = write_model(cache / "source", shards)
    snapshot = place / "snapshots" / revision
    for folder in (snapshot, place / "blobs", place / "refs"):
        folder.mkdir(parents=True)
    for number, file in enumerate(sorted(files.iterdir())):
        (place / "blobs" / f"blob{number}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob{number}")
    (place / "refs" / "main").write_text(revision)
    return snapshot


def test_the_embedded_base_is_in_the_package(tmp_path: Path) -> None:
    assert "embedded:mini" in list_embedded()
    folder = resolve("embedded:mini", tmp_path)
    assert read_config(folder)["model_type"] == "mistral"
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]
    with pytest.raises(UnknownName, match="did you mean 'embedded:mini'"):
        resolve("embedded:mimi", tmp_path)
    with pytest.raises(UnknownName):
        resolve("embedded:../../etc", tmp_path)


def test_local_folders_are_absolute_or_relative_to_the_fleet(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "models" / "mine")
    assert resolve(str(folder), Path("/nowhere")) == folder
    assert resolve("models/mine", tmp_path) == folder
    assert resolve("./models/mine", tmp_path) == folder
    assert resolve("../models/mine", tmp_path / "models") == folder
    write_model(tmp_path / "home" / "mine")
    assert resolve("~/mine", Path("/nowhere")) == tmp_path / "home" / "mine"


@pytest.mark.parametrize("model", ["./nothing", "/nothing/here", "~/nothing", "a/b/c", "with space", "a\\b", ""])
def test_a_path_that_is_not_there_is_no_hub_id(tmp_path: Path, model: str) -> None:
    with pytest.raises(UnknownName, match="no folder") as caught:
        resolve(model, tmp_path / "empty")
    assert caught.value.where


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    write_model(tmp_path)
    with pytest.raises(InputError, match="name the folder around it"):
        resolve("model.safetensors", tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "cache"),
    [
        ("HF_HUB_CACHE", "hub-here", "hub-here"),
        ("HUGGINGFACE_HUB_CACHE", "hub-here", "hub-here"),
        ("HF_HOME", "hf", "hf/hub"),
        ("XDG_CACHE_HOME", "xdg", "xdg/huggingface/hub"),
        (None, "", "home/.cache/huggingface/hub"),
    ],
)
def test_a_whole_snapshot_is_found_in_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, value: str, cache: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / value))
    snapshot = cache_model(tmp_path / cache)
    assert resolve("mistralai/Mistral-7B-v0.3", tmp_path / "fleet") == snapshot


def test_what_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"not on this disk.*Next: `onecard fetch mistralai/Mistral-7B-v0\.3`"):
        resolve("mistralai/Mistral-7B-v0.3", tmp_path)
    assert not (tmp_path / "cache").exists()


def _lose(snapshot: Path, name: str) -> None:
    (snapshot / name).resolve().unlink()


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda snapshot: _lose(snapshot, "model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors"),
        (lambda snapshot: (snapshot / "model-00001-of-00002.safetensors").unlink(), "model-00001-of-00002.safetensors"),
        (lambda snapshot: _lose(snapshot, "config.json"), "config.json"),
        (lambda snapshot: [file.unlink() for file in snapshot.glob("model*")], r"the weights \(\*\.safetensors\)"),
        (lambda snapshot: (snapshot.parents[1] / "refs" / "main").write_text("gone"), "config.json"),
        (lambda snapshot: (snapshot.parents[1] / "refs" / "main").write_text("../.."), "refs/main"),
        (lambda snapshot: (snapshot.parents[1] / "refs" / "main").write_bytes(b"\xff\n"), "refs/main"),
        (lambda snapshot: (snapshot.parents[1] / "refs" / "main").write_text(""), "refs/main"),
    ],
)
def test_half_a_download_is_never_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], missing: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    damage(cache_model(tmp_path / "hub"))
    with pytest.raises(MissingPart, match=f"only a part of .* missing: {missing}.*resumes the download"):
        resolve("mistralai/Mistral-7B-v0.3", tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"{", "not valid JSON"), (b"[]", "not a JSON object"), (b"\xff", "not valid"), (None, "no ")],
)
def test_a_broken_config_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json: {problem}"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 1}}']
)
def test_a_broken_index_is_named(tmp_path: Path, content: str) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match=r"index\.json"):
        fingerprint(tmp_path)


def test_a_copy_keeps_its_fingerprint(tmp_path: Path) -> None:
    first = fingerprint(write_model(tmp_path / "one", shards=3))
    assert len(first) == 64
    moved = write_model(
        tmp_path / "two", shards=3, transformers_version="9", _name_or_path="x", torch_dtype="float32", use_cache=False,
        rope={"dtype": "float16", "theta": 1e4},
    )  # fmt: skip
    assert fingerprint(moved) == first
    (moved / "consolidated.safetensors").write_bytes(b"the same weights in another form")
    (moved / "README.md").write_text("words")
    assert fingerprint(moved) == first


def test_whatever_decides_the_answer_changes_the_fingerprint(tmp_path: Path) -> None:
    first = fingerprint(write_model(tmp_path / "one", shards=2))
    assert fingerprint(write_model(tmp_path / "two", shards=2, hidden_size=65)) != first
    assert fingerprint(write_model(tmp_path / "three", shards=2, rope={"theta": 2e4})) != first
    other = write_model(tmp_path / "four", shards=2)
    shard = other / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes().replace(b"m", b"n", 1))
    assert fingerprint(other) != first
    swapped = write_model(tmp_path / "five", shards=2)
    one, two = sorted(swapped.glob("*.safetensors"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert fingerprint(swapped) != first


def test_missing_weights_have_no_fingerprint(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="missing weights: model-00001"):
        fingerprint(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00002-of-00002.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"missing weights: \*\.safetensors"):
        fingerprint(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=30))
@example("x" * 5000)
@example("~nobody/model")
@example("a\0b")
@example("\ud800")
def test_any_text_is_resolved_or_refused_by_an_error_of_ours(tmp_path: Path, text: str) -> None:
    with contextlib.suppress(InputError, MissingPart):
        assert resolve(text, tmp_path).is_dir()
