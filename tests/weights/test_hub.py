"""A model on a hub over real HTTP, without its weights: what is read, what is asked for, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onecard.catalog.models import find_model
from onecard.errors import InputError, MachineError, OnecardError, UnknownName
from onecard.weights.hub import CONFIG_LIMIT_BYTES, read_about, read_model, recall_model

MISTRAL = find_model("mistralai/Mistral-7B-v0.3")
SMALL: dict[str, Any] = {
    "model_type": "mistral", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False,
}  # fmt: skip


def encoded(config: Any) -> bytes:
    return json.dumps(config).encode()


@pytest.fixture
def small(hub: Any, hub_server: Any, tmp_path: Path) -> dict[str, Any]:
    """The files of a small model in one shard, as org/small on the hub."""
    file = hub_server.write_safetensors(tmp_path / "model.safetensors", hub_server.decoder_tensors(SMALL))
    files = {"config.json": encoded(SMALL), "model.safetensors": file}
    hub.add("org/small", files)
    return files


def refused(kind: type[OnecardError], *arguments: str) -> OnecardError:
    with pytest.raises(kind) as caught:
        read_model(*arguments)
    return caught.value


def test_fourteen_gigabytes_are_known_to_the_byte_from_their_first_kilobytes(
    hub: Any, hub_server: Any, tmp_path: Path
) -> None:
    files = hub_server.write_shards(tmp_path, hub_server.decoder_tensors(MISTRAL.config), 3)
    hub.add("org/seven", {"config.json": encoded(MISTRAL.config), **files})
    counted: list[tuple[int, int]] = []
    model = read_model("org/seven", progress=lambda done, total: counted.append((done, total)))
    assert model.headers is not None
    assert model.headers.total_bytes == 2 * MISTRAL.parameters == 14_496_047_104
    assert (model.headers.files, model.headers.tensors) == (3, 291)
    assert model.config == MISTRAL.config
    assert model.commit == hub.repos["org/seven"].commit
    assert hub.bytes_sent() < 400_000
    assert counted[-1] == (3, 3)


def test_everything_after_the_first_answer_is_asked_at_its_commit(hub: Any, small: Any) -> None:
    read_model("org/small")
    commit = hub.repos["org/small"].commit
    resolved = [one.path for one in hub.seen if "/resolve/" in one.path]
    assert resolved == [
        "/org/small/resolve/main/config.json",
        f"/org/small/resolve/{commit}/model.safetensors.index.json",
        f"/org/small/resolve/{commit}/model.safetensors",
    ]


def test_what_was_read_is_not_asked_for_again_until_the_branch_moves(hub: Any, small: dict[str, Any]) -> None:
    first = read_model("org/small")
    hub.seen.clear()
    assert read_model("org/small") == first
    assert hub.asked == ["config.json"]
    hub.add("org/small", {**small, "config.json": encoded(SMALL | {"vocab_size": 1000, "note": "moved"})})
    assert recall_model("org/small") == first
    moved = read_model("org/small")
    assert moved.commit != first.commit and moved.config["note"] == "moved"
    assert recall_model("org/small") == moved
    assert first.commit is not None and recall_model("org/small", first.commit) == first


def test_another_hub_is_another_memory(hub: Any, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read_model("org/small")
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirror")
    assert recall_model("org/small") is None


def test_huggingface_hub_reads_the_same_from_the_same_server(
    hub: Any, hub_server: Any, small: Any, tmp_path: Path
) -> None:
    library = pytest.importorskip("huggingface_hub")
    api = library.HfApi(endpoint=hub.url, token=False)
    hub.add(
        "org/cut",
        {"config.json": encoded(SMALL), **hub_server.write_shards(tmp_path, hub_server.decoder_tensors(SMALL), 2)},
    )
    for repo in ("org/small", "org/cut"):
        theirs = api.get_safetensors_metadata(repo)
        ours = read_model(repo).headers
        assert ours is not None
        assert theirs.parameter_count == {"BF16": ours.parameters}
        assert len(theirs.weight_map) == ours.tensors
    info = api.model_info("org/small")
    assert info.sha == read_model("org/small").commit


def test_a_repository_without_safetensors_has_a_config_and_no_headers(hub: Any) -> None:
    hub.add("org/bin", {"config.json": encoded(SMALL), "pytorch_model.bin": b"pickle"})
    assert read_model("org/bin").headers is None


def test_a_repository_that_moved_is_followed(hub: Any, small: Any) -> None:
    hub.add("old/name", {}, moved_to="org/small")
    assert read_model("old/name").commit == hub.repos["org/small"].commit


def test_a_hub_that_names_no_commit_is_read_and_not_remembered(hub: Any, small: Any) -> None:
    hub.says_commit = False
    model = read_model("org/small")
    assert model.commit is None and model.headers is not None
    assert recall_model("org/small") is None


def test_a_server_without_ranges_is_left_after_the_header(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    hub.ranges = False
    file = hub_server.write_safetensors(tmp_path / "m", hub_server.decoder_tensors(MISTRAL.config))
    hub.add("org/seven", {"config.json": encoded(MISTRAL.config), "model.safetensors": file})
    model = read_model("org/seven")
    assert model.headers is not None and model.headers.parameters == MISTRAL.parameters


def test_a_header_longer_than_the_first_range_is_asked_for_once_more(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    tensors = {f"model.layers.{number}.mlp.experts.0.weight": ("BF16", (4,)) for number in range(3000)}
    hub.add(
        "org/many",
        {"config.json": encoded(SMALL), "model.safetensors": hub_server.write_safetensors(tmp_path / "m", tensors)},
    )
    for hub.ranges in (True, False):
        hub.seen.clear()
        model = read_model("org/many", hub.repos["org/many"].commit)
        assert model.headers is not None and model.headers.tensors == 3000
        hub.add("org/many", {**hub.repos["org/many"].files, "note": b"another commit"})


# Refusals


def test_a_name_nobody_has(hub: Any) -> None:
    error = refused(UnknownName, "org/none")
    assert "no model org/none, or it is private" in error.problem
    assert error.next_step is not None and "hf auth login" in error.next_step


def test_a_gated_model_without_and_with_a_token(
    hub: Any, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/gated", small, gated="manual")
    error = refused(InputError, "org/gated")
    assert "asks for an account" in error.problem and error.where == f"{hub.url}/org/gated"
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert "not on its list" in refused(InputError, "org/gated").problem
    monkeypatch.setenv("HF_TOKEN", "hf_friend")
    assert "does not take your token" in refused(InputError, "org/gated").problem
    hub.granted.add("hf_friend")
    assert read_model("org/gated").headers is not None


def test_a_private_model_is_hidden_from_strangers(
    hub: Any, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/private", small, private=True)
    assert "or it is private" in refused(UnknownName, "org/private").problem
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert "hides it from your account" in refused(UnknownName, "org/private").problem


def test_a_revision_nobody_made(hub: Any, small: Any) -> None:
    assert "no such revision" in refused(UnknownName, "org/small", "v9").problem


def test_a_repository_without_a_config(hub: Any) -> None:
    hub.add("org/gguf", {"model.gguf": b"GGUF"})
    error = refused(UnknownName, "org/gguf")
    assert "no config.json" in error.problem and "GGUF" in str(error.next_step)


def test_a_shard_that_is_missing(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    files = hub_server.write_shards(tmp_path, hub_server.decoder_tensors(SMALL), 3)
    del files["model-00002-of-00003.safetensors"]
    hub.add("org/part", {"config.json": encoded(SMALL), **files})
    assert "no model-00002-of-00003.safetensors" in refused(UnknownName, "org/part").problem


def test_a_tensor_that_no_shard_holds(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    files = hub_server.write_shards(tmp_path, hub_server.decoder_tensors(SMALL), 2)
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"]["model.more.weight"] = "model-00001-of-00002.safetensors"
    hub.add("org/less", {"config.json": encoded(SMALL), **files, "model.safetensors.index.json": encoded(index)})
    assert "'model.more.weight', which no file holds" in refused(InputError, "org/less").problem


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd.safetensors", "/etc/passwd.safetensors", "..safetensors", "a/../../b.safetensors",
        "https://evil.example/x.safetensors", "//evil.example/x.safetensors", "sub/x.safetensors", "x.bin",
        "x.safetensors?y", "x\\y.safetensors", ".x.safetensors", "", 7, None, ["x.safetensors"],
        "%2e%2e%2fx.safetensors", "x\n.safetensors",
    ],
)  # fmt: skip
def test_an_index_cannot_send_the_reader_anywhere(hub: Any, small: dict[str, Any], name: object) -> None:
    index = encoded({"weight_map": {"a": "model.safetensors", "b": name}})
    hub.add("org/leaves", {**small, "model.safetensors.index.json": index})
    assert "weight_map names" in refused(InputError, "org/leaves").problem
    assert hub.asked == ["config.json", "model.safetensors.index.json"]


@pytest.mark.parametrize("weight_map", [{}, [], None, "x", {str(n): f"{n}.safetensors" for n in range(1001)}])
def test_an_index_of_nothing_or_of_too_much(hub: Any, small: dict[str, Any], weight_map: object) -> None:
    hub.add("org/index", {**small, "model.safetensors.index.json": encoded({"weight_map": weight_map})})
    assert "weight_map names" in refused(InputError, "org/index").problem


@pytest.mark.parametrize(
    ("body", "said"), [(b"<html>", "not valid JSON"), (b"[1]", "not a JSON object"), (b"[" * 99_999, "JSON")]
)
def test_a_config_that_is_none(hub: Any, body: bytes, said: str) -> None:
    hub.add("org/odd", {"config.json": body})
    assert said in refused(InputError, "org/odd").problem


def test_a_config_over_its_limit_is_left_unread(hub: Any) -> None:
    hub.add("org/large", {"config.json": b" " * (CONFIG_LIMIT_BYTES + 1)})
    error = refused(InputError, "org/large")
    assert "larger than 10,000,000 bytes" in error.problem


def test_an_absurd_header_is_refused_after_its_first_bytes(hub: Any, tmp_path: Path) -> None:
    file = tmp_path / "m"
    with file.open("wb") as writer:
        writer.write((100_000_001).to_bytes(8, "little"))
        writer.truncate(300_000_000)
    hub.add("org/absurd", {"config.json": encoded(SMALL), "model.safetensors": file})
    error = refused(InputError, "org/absurd")
    assert (
        "over the limit of 100,000,000" in error.problem and error.where == f"{hub.url}/org/absurd: model.safetensors"
    )
    assert hub.bytes_sent() < 200_000


def test_a_file_cut_off_on_the_hub(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    file = hub_server.write_safetensors(tmp_path / "m", hub_server.decoder_tensors(SMALL))
    with file.open("r+b") as writer:
        writer.truncate(file.stat().st_size - 100)
    hub.add("org/cut", {"config.json": encoded(SMALL), "model.safetensors": file})
    assert "cut off" in refused(InputError, "org/cut").problem
    with file.open("r+b") as writer:
        writer.truncate(0)
    assert "too few" in refused(InputError, "org/cut").problem


def test_texts_of_a_config_cannot_steer_a_terminal(hub: Any) -> None:
    hub.add("org/odd", {"config.json": encoded({"model_type": "\x1b[2Jllama", "a\x07b": ["\u202ex"]})})
    assert read_model("org/odd").config == {"model_type": "?[2Jllama", "a?b": ["?x"]}


@pytest.mark.parametrize(
    "repo", ["org/../x", "a/b/c", "", "org/", "/x", "org/x.git", "x--y", "http://x/y", "o" * 97, "a b", "x\n"]
)
def test_what_is_no_name_of_a_repository_is_never_asked_for(hub: Any, repo: str) -> None:
    assert "no name of a repository" in refused(InputError, repo).problem
    assert hub.seen == []


@pytest.mark.parametrize("revision", ["", "../main", "a//b", "main/", "x y", "-x", "a" * 201])
def test_what_is_no_revision_is_never_asked_for(hub: Any, revision: str) -> None:
    assert "no revision" in refused(InputError, "org/small", revision).problem
    assert hub.seen == []


def test_a_hub_that_is_not_there(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused(MachineError, "org/small")
    assert "127.0.0.1:9 cannot be reached" in error.problem and "HF_ENDPOINT" in str(error.next_step)


# The hub's record


def test_the_record_of_a_repository(hub: Any, small: dict[str, Any]) -> None:
    hub.add(
        "org/told",
        small,
        card={"license": "other", "license_name": "tongyi", "base_model": ["org/a", "org/b"]},
        gated="auto",
    )
    hub.granted.add("hf_friend")
    hub.add("org/plain", small, card={"license": ["mit", "bsd"]})
    hub.add("org/silent", small)
    assert (read_about("org/plain").licence, read_about("org/plain").gated) == ("mit", False)
    assert read_about("org/silent").licence is None
    with pytest.raises(InputError, match="gated"):
        read_about("org/told")


def test_licence_name_and_base_model(hub: Any, small: dict[str, Any]) -> None:
    hub.add(
        "org/told", small, card={"license": "other", "license_name": "tongyi\x1b", "base_model": ["org/a", "org/b"]}
    )
    about = read_about("org/told")
    assert (about.licence, about.base_model) == ("tongyi?", "org/a")
