"""A hub on loopback, and an environment in which no cache, token or hub of the person who runs the tests is used."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HUB_VARIABLES = (
    "HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME",
    "ONECARD_MODELS", "HF_DATASETS_CACHE",
)  # fmt: skip


def load_hub_server() -> ModuleType:
    """hub_server.py beside this file: tests are no package, so it is found by its path."""
    name = "onecard_tests_hub_server"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("hub_server.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def hub_server() -> Any:
    """The module with the server and the writers of checkpoints."""
    return load_hub_server()


@pytest.fixture
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def hub(hub_server: Any, own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty hub that HF_ENDPOINT points at."""
    with hub_server.HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
