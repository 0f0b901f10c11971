"""`.env` beside a fleet: what is taken, what the environment keeps, and that no variable is read that `.env.example` does not explain."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import InputError
from onecard.weights.environment import VARIABLES, follow, read_env_file, token_source
from onecard.weights.hub_access import access
from onecard.weights.places import hub_cache

ROOT = Path(__file__).parents[2]
# Set by the system or for others' libraries, not by a person for onecard.
_NOT_OURS = {
    "PATH",
    "PYTHONPATH",
    "HOME",
    "SHELL",
    "KINETO_LOG_LEVEL",
    "OMP_WAIT_POLICY",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUDA_VISIBLE_DEVICES",  # and what follows: set for processes of our own
    "GLOO_SOCKET_IFNAME",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_API_KEY",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_NO_USAGE_STATS",
}


@pytest.fixture(autouse=True)
def _clean(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `follow` sets is unset after each test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".env").write_text(text, encoding="utf-8")
    return folder


def test_models_live_where_the_file_beside_the_fleet_says(tmp_path: Path) -> None:
    fleet = write(tmp_path / "fleet", "# where models live\nexport ONECARD_MODELS=./models # on the large disk\n")
    taken = follow(fleet)
    assert taken is not None and taken.names == ("ONECARD_MODELS",)
    assert hub_cache() == fleet / "models"


def test_the_environment_is_never_overridden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["HF_HOME"] = "/volume/hf"
    taken = follow(write(tmp_path, "HF_HOME=/elsewhere\nHF_DATASETS_CACHE=/data\n"))
    assert taken is not None and taken.names == ("HF_DATASETS_CACHE",)
    assert os.environ["HF_HOME"] == "/volume/hf"
    assert hub_cache() == Path("/volume/hf/hub")


def test_only_listed_variables_are_taken(tmp_path: Path) -> None:
    taken = follow(write(tmp_path, "LD_PRELOAD=/tmp/x.so\nPATH=/tmp\nHF_HOME=/volume\n"))
    assert taken is not None and taken.names == ("HF_HOME",)
    assert "LD_PRELOAD" not in os.environ


def test_a_folder_that_names_another_hub_gets_no_token_but_its_own(tmp_path: Path) -> None:
    os.environ["HF_TOKEN"] = "hf_mine"
    taken = follow(write(tmp_path, "HF_ENDPOINT=http://stranger.example\n"))
    assert taken is not None and taken.token_held_back
    assert access().endpoint == "http://stranger.example" and access().token is None


def test_a_file_with_hub_and_token_is_taken_at_its_word(tmp_path: Path) -> None:
    taken = follow(write(tmp_path, "HF_ENDPOINT=http://hub.example\nHF_TOKEN='hf_theirs'\n"))
    assert taken is not None and not taken.token_held_back
    assert access().token == "hf_theirs" and token_source() == "HF_TOKEN"


def test_the_same_endpoint_from_the_environment_keeps_its_token(tmp_path: Path) -> None:
    os.environ.update(HF_TOKEN="hf_mine", HF_ENDPOINT="http://hub.example")
    taken = follow(write(tmp_path, "HF_ENDPOINT=http://stranger.example\n"))
    assert taken is not None and not taken.names
    assert access().endpoint == "http://hub.example" and access().token == "hf_mine"


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert follow(tmp_path) is None
    assert token_source() is None


def test_the_token_may_be_the_one_that_was_written_at_login(tmp_path: Path) -> None:
    os.environ["HF_HOME"] = str(tmp_path)
    (tmp_path / "token").write_text("hf_x")
    assert token_source() == str(tmp_path / "token")


def test_a_line_that_is_no_assignment_is_named_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        follow(write(tmp_path, "HF_HOME=/volume\nhf_secret_token\n"))
    assert error.value.where == f"{tmp_path / '.env'}:2"
    assert "secret" not in str(error.value)


def test_values_are_read_as_shells_read_them(tmp_path: Path) -> None:
    write(tmp_path, "A=one\nB=\"two words # here\" # note\nC='three'\n  D = four#five\nE=\nexport F=$HOME\n\n")
    said = read_env_file(tmp_path / ".env")
    assert said == {"A": "one", "B": "two words # here", "C": "three", "D": "four#five", "E": "", "F": "$HOME"}


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_by_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.env"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        said = read_env_file(file)
    except InputError as error:
        assert str(file) in str(error)
    else:
        assert all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in said)


def test_every_variable_that_is_read_is_explained_in_the_example() -> None:
    read = {variable.name for variable in VARIABLES}
    asked = re.compile(
        r"""(?:environ(?:\.get|\.setdefault|\.pop)?[\[(]|getenv\(|envvar=)\s*["']([A-Z][A-Z0-9_]+)["']"""
    )
    named = re.compile(r"""["']((?:ONECARD|HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|VLLM)_[A-Z_]*[A-Z])["']""")
    for file in (ROOT / "src").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        read |= {*asked.findall(text), *named.findall(text)}
    explained = set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.M))
    assert read - _NOT_OURS - explained == set()


def test_the_example_is_a_file_that_can_be_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, (ROOT / ".env.example").read_text(encoding="utf-8"))
    taken = follow(tmp_path)
    assert taken is not None and taken.names == ()
