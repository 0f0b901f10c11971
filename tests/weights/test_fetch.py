"""Which files are wanted, what the disk must hold, and how long a refusal is waited for: all without a hub."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.units import GIB
from onecard.errors import DiskFull, InputError
from onecard.weights.fetch import (
    DISK_SLACK_BYTES,
    PATIENCE_S,
    FileState,
    Listing,
    RemoteFile,
    RepoPlan,
    check_disk,
    choose_files,
    order_of_work,
    wait_before_next,
)

DIGEST = "a" * 64


def listing(*names: str) -> Listing:
    return Listing("org/name", "main", "c" * 40, tuple(RemoteFile(name, 10, DIGEST) for name in names))


def chosen(*names: str, code: bool = False) -> set[str]:
    return {file.name for file in choose_files(listing(*names), code=code)[0]}


def plan(*states: FileState) -> RepoPlan:
    return RepoPlan(listing("config.json"), states)


def test_a_model_is_its_safetensors_tokenizer_config_template_and_licence() -> None:
    needed = {
        "config.json", "generation_config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.txt", "merges.txt",
        "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "preprocessor_config.json", "LICENSE", "README.md",
        "USE_POLICY.md", "spiece.model", "tokenizer.model.v3",
    }  # fmt: skip
    rest = {
        "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "modeling_x.py", "consolidated.safetensors",
        "onnx/model.onnx", "original/tokenizer.model", "model.gguf", "training_args.bin", ".gitattributes", "tf_model.h5",
        "flax_model.msgpack.index.json", "figure.png", "scaler.pkl",
    }  # fmt: skip
    assert chosen(*needed, *rest) == needed


def test_what_is_left_out_says_why() -> None:
    _, left_out = choose_files(listing("config.json", "model.safetensors", "pytorch_model.bin", "modeling_x.py"))
    reasons = {one.name: one.reason for one in left_out}
    assert "pickle" in reasons["pytorch_model.bin"]
    assert "--allow-code" in reasons["modeling_x.py"]


def test_code_comes_only_where_somebody_chose_it_and_pickles_not_even_then() -> None:
    names = ("config.json", "model.safetensors", "modeling_x.py", "pytorch_model.bin")
    assert chosen(*names, code=True) == {"config.json", "model.safetensors", "modeling_x.py"}


def test_a_single_file_is_the_model_and_others_beside_it_are_not() -> None:
    assert chosen("config.json", "model.safetensors", "adapter_model.safetensors", "consolidated.safetensors") == {
        "config.json",
        "model.safetensors",
    }
    assert "weights.safetensors" in chosen("config.json", "weights.safetensors")


@pytest.mark.parametrize(
    "name", ["../../x.json", "/etc/x.json", "a/../../x.safetensors", "..json", "a\\b.json", "-x.json"]
)
def test_a_name_that_leads_elsewhere_is_never_wanted(name: str) -> None:
    assert name not in chosen("config.json", "model.safetensors", name)


@given(st.text(max_size=40))
def test_no_wanted_name_leaves_its_folder(name: str) -> None:
    for wanted in chosen("config.json", "model.safetensors", name):
        assert not wanted.startswith(("/", ".")) and ".." not in wanted and "\\" not in wanted and "\n" not in wanted


def test_a_file_without_a_hash_is_not_wanted_because_nobody_could_check_it() -> None:
    files = (*listing("config.json", "model.safetensors").files, RemoteFile("tokenizer.json", 5, "not-a-hash"))
    wanted, left_out = choose_files(Listing("org/name", "main", "c" * 40, files))
    assert [file.name for file in wanted] == ["config.json", "model.safetensors"]
    assert "hash" in left_out[0].reason


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("config.json", "pytorch_model.bin"), "only pickles (pytorch_model.bin)"),
        (("config.json", "model-q4.gguf"), "only GGUF (model-q4.gguf)"),
        (("config.json",), "none at all"),
        (("model.safetensors",), "has no config.json"),
    ],
)
def test_what_would_be_no_model_is_an_error(names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError) as error:
        choose_files(listing(*names))
    assert problem in error.value.problem and error.value.next_step


def test_the_disk_is_asked_for_the_sum_of_what_is_missing_and_nothing_more() -> None:
    large = RemoteFile("model.safetensors", 10 * GIB, DIGEST)
    half = plan(FileState(large, "partial", held_bytes=6 * GIB))
    assert half.needed_bytes == half.disk_bytes == 4 * GIB
    check_disk([half], 4 * GIB + DISK_SLACK_BYTES, "/models")
    with pytest.raises(DiskFull, match=r"needs 4\.00 GiB, and 4\.00 GiB are free") as full:
        check_disk([half], 4 * GIB, "/models")
    assert "nothing was downloaded" in (full.value.next_step or "")
    with pytest.raises(DiskFull, match=r"needs 8\.00 GiB"):
        check_disk([half, half], 7 * GIB, "/models")


def test_a_damaged_file_makes_room_for_itself() -> None:
    large = RemoteFile("model.safetensors", 10 * GIB, DIGEST)
    replaced = plan(FileState(large, "damaged", freed_bytes=10 * GIB))
    assert replaced.needed_bytes == 10 * GIB and replaced.disk_bytes == 0
    check_disk([replaced], 0, "/models")


def test_small_files_come_first_and_whole_ones_not_at_all() -> None:
    states = [
        FileState(RemoteFile("model.safetensors", 100, DIGEST), "absent"),
        FileState(RemoteFile("README.md", 1, DIGEST), "whole", held_bytes=1),
        FileState(RemoteFile("config.json", 5, DIGEST), "damaged"),
    ]
    assert [one.file.name for _, one in order_of_work([plan(*states)])] == ["config.json", "model.safetensors"]


def test_a_server_that_names_a_time_gets_it_unless_a_person_should_know() -> None:
    assert wait_before_next(429, 7.0, 0) == 7.0
    assert wait_before_next(429, PATIENCE_S + 1, 0) is None
    assert wait_before_next(503, None, 0) == 0.5
    assert wait_before_next(0, None, 1) == 1.0
    assert wait_before_next(503, 1.0, 5) is None
    assert wait_before_next(403, None, 0) is None
    assert wait_before_next(404, 1.0, 0) is None
