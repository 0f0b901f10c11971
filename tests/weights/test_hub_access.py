"""Which hub, which token, and whether at all: by the environment, as huggingface_hub reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import InputError
from onecard.weights.hub_access import access, is_repo_id, is_shard_name, offline_variable

pytestmark = pytest.mark.usefixtures("own_environment")


def test_without_any_variable_it_is_the_public_hub_and_nobody() -> None:
    by = access()
    assert (by.endpoint, by.host, by.token, by.timeout_s) == ("https://huggingface.co", "huggingface.co", None, 10)


def test_a_mirror_with_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443/hf/")
    assert (access().endpoint, access().host) == ("https://mirror.example:8443/hf", "mirror.example:8443")


@pytest.mark.parametrize(
    "said",
    ["ftp://x", "hub.example", "https://", "https://u:secret@x", "https://x y", "http://x:99999999", "https://x?a=b"],
)
def test_what_is_no_hub(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", said)
    with pytest.raises(InputError, match="not the address of a hub") as refused:
        access()
    assert "secret" not in str(refused.value)


def test_the_token_of_the_variable_comes_before_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cache" / "huggingface" / "token"
    file.parent.mkdir(parents=True)
    file.write_text("hf_file\n")
    assert access().token == "hf_file"
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old")
    assert access().token == "hf_old"
    monkeypatch.setenv("HF_TOKEN", " hf_new\n")
    assert access().token == "hf_new"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert access().token is None


def test_where_the_token_file_may_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("hf_home")
    (tmp_path / "named").write_text("hf_named")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert access().token == "hf_home"
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "named"))
    assert access().token == "hf_named"
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path))
    assert access().token is None


def test_a_token_that_no_header_can_carry_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a\nX-Evil: 1")
    with pytest.raises(InputError, match="characters no token has") as refused:
        access()
    assert "hf_a" not in str(refused.value) and refused.value.where == "HF_TOKEN"


@pytest.mark.parametrize("said", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", said)
    with pytest.raises(InputError, match="no number of seconds"):
        access()


def test_offline_by_either_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert offline_variable() is None
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "true")
    assert offline_variable() == "TRANSFORMERS_OFFLINE=true"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert offline_variable() == "HF_HUB_OFFLINE=1"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    assert offline_variable() is None


@given(st.text(alphabet="aA1-_./ ", max_size=12))
def test_no_name_is_taken_that_huggingface_hub_refuses(text: str) -> None:
    library = pytest.importorskip("huggingface_hub.utils")
    if is_repo_id(text):
        library.validate_repo_id(text)


@pytest.mark.parametrize("name", ["gpt2", "org/name", "Qwen/Qwen2.5-7B-Instruct", "01-ai/Yi_6B", "a/b.c-d"])
def test_real_names_are_taken(name: str) -> None:
    assert is_repo_id(name)


@given(st.text(max_size=20))
def test_a_shard_is_a_plain_name(text: str) -> None:
    name = f"{text}.safetensors"
    if is_shard_name(name):
        assert Path("/repo", name).resolve().parent == Path("/repo")
        assert name.isascii() and name.isprintable() and "%" not in name
