"""What answers for a model of a fleet: the facts a choice is made from, what is missing, and an adapter's export as the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from onecard.engines.choice import Here
from onecard.engines.local.engine import LocalEngine
from onecard.engines.remote import RemoteEngine
from onecard.errors import FleetError, MissingPart, UnknownName
from onecard.fleet.loader import LoadedFleet, load_fleet
from onecard.serving.answerers import Answerer, Directory
from onecard.serving.listening import listen
from onecard.serving.opening import choice_of, here, memory_fraction, open_model
from onecard.serving.running import run_in_background
from onecard.serving.service import FleetName, Service

ALL, BARE = Here(card=True, local=True, vllm=True), Here(card=False, local=False, vllm=False)


def fleet(folder: Path, agent: dict[str, Any] | None = None, **model: Any) -> LoadedFleet:
    document = {
        "name": "opened", "card": {"vram_gib": 8, "bandwidth_gbs": 20}, "reserve_gib": 2,
        "models": {"base": {"id": "embedded:mini", "context": 128, **model}},
        "agents": {"writer": {"model": "base", **(agent or {})}},
    }  # fmt: skip
    (folder / "fleet.yaml").write_text(yaml.safe_dump(document))
    return load_fleet(folder / "fleet.yaml")


def test_this_machine_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here({}).local
    assert here({"ONECARD_VLLM_PYTHON": "/x/python"}).vllm


def test_the_choice_follows_the_fleet(tmp_path: Path) -> None:
    assert choice_of(fleet(tmp_path), "base", ALL).engine == "local"
    assert choice_of(fleet(tmp_path, engine="vllm"), "base", ALL).engine == "vllm"
    assert choice_of(fleet(tmp_path, quantization="awq"), "base", ALL).engine == "vllm"
    styled = {"adapter": "style@production", "recipe": {"added_tokens": ["<T>"]}}
    assert "adapter of writer adds tokens" in choice_of(fleet(tmp_path, styled), "base", ALL).reason
    assert "candidates" in choice_of(fleet(tmp_path, {"task": "rerank"}), "base", ALL).reason


def test_an_exported_base_is_served_by_vllm(tmp_path: Path) -> None:
    (tmp_path / "export" / "base").mkdir(parents=True)
    (tmp_path / "export" / "export.json").write_text(json.dumps({"address": "writer/style@v0001", "digest": "d" * 64}))
    styled = {"adapter": "style@production", "recipe": {"added_tokens": ["<T>"]}}
    choice = choice_of(fleet(tmp_path, styled, id="./export/base"), "base", ALL)
    assert choice.engine == "vllm" and "export of writer/style@v0001" in choice.reason


def test_what_is_missing_or_cannot_be_held_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"pip install 'onecard\[local\]'"):
        choice_of(fleet(tmp_path), "base", BARE)
    with pytest.raises(MissingPart, match="ONECARD_VLLM_PYTHON"):
        choice_of(fleet(tmp_path, quantization="awq"), "base", BARE)
    with pytest.raises(FleetError, match="awq is not served by the local engine"):
        choice_of(fleet(tmp_path, engine="local", quantization="awq"), "base", ALL)
    with pytest.raises(FleetError, match="nf4 is not served by vLLM"):
        choice_of(fleet(tmp_path, engine="vllm", quantization="nf4"), "base", ALL)


def test_vllm_gets_the_card_without_the_reserve(tmp_path: Path) -> None:
    assert memory_fraction(fleet(tmp_path), "base") == 0.75


def test_a_remote_model_is_opened_at_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = open_model(fleet(tmp_path), "base", choice_of(fleet(tmp_path), "base", ALL))
    assert isinstance(local, LocalEngine)
    service = Service(FleetName("f", "0"), {"base": local}, Directory([], Answerer("base", "base", local)))
    with run_in_background(service, listen("127.0.0.1", 0)) as running:
        loaded = fleet(tmp_path, engine="remote", url=running.url)
        remote = open_model(loaded, "base", choice_of(loaded, "base", BARE))
        assert isinstance(remote, RemoteEngine)
        assert remote.info().base_fingerprint == local.info().base_fingerprint
        elsewhere = fleet(tmp_path, engine="remote", url=running.url, id="some/other")
        with pytest.raises(UnknownName, match="does not serve some/other"):
            open_model(elsewhere, "base", choice_of(elsewhere, "base", BARE))
