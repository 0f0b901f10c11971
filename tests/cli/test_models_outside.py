"""`onecard models show` of a model the catalog does not have, as a person at a terminal or a script sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onecard.catalog.models import find_model
from onecard.cli.models import models
from onecard.errors import CatalogError, InputError

MISTRAL = find_model("mistralai/Mistral-7B-v0.3")
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


@pytest.fixture
def seven(hub: Any, hub_server: Any, tmp_path: Path) -> Any:
    """org/seven in 16 bits and org/seven-awq."""
    plain = hub_server.write_safetensors(tmp_path / "plain", hub_server.decoder_tensors(MISTRAL.config))
    awq = hub_server.write_safetensors(tmp_path / "awq", hub_server.awq_tensors(MISTRAL.config))
    config = MISTRAL.config | {"architectures": ["MistralForCausalLM"]}
    hub.add(
        "org/seven", {"config.json": json.dumps(config).encode(), "model.safetensors": plain}, card={"license": "mit"}
    )
    said = json.dumps(config | {"quantization_config": AWQ}).encode()
    card = {"license": "other", "license_name": "own-licence", "base_model": "org/seven"}
    hub.add("org/seven-awq", {"config.json": said, "model.safetensors": awq}, card=card)
    return hub


def show(*arguments: str, columns: int = 100) -> str:
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(models, ["show", *arguments])
    if done.exception:
        raise done.exception
    return done.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_every_fact_with_its_source_within_the_terminal(seven: Any, columns: int) -> None:
    shown = show("org/seven", columns=columns)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= columns
    words = " ".join(shown.split())
    for said in (
        "org/seven (not in the catalog)",
        f"at commit {seven.repos['org/seven'].commit[:12]}",
        "MIT License, as its owner wrote it; fully open",
        "not gated",
        "mistral (MistralForCausalLM)",
        "7,248,023,552: embeddings 134,217,728",
        "13.50 GiB in 291 tensors of 1 file: BF16 13.50 GiB",
        "the parameters its config counts",
        "nf4 3.85 GiB",
        "32,768 tokens",
        "32 layers keep 128 KiB a token",
        "q_proj, k_proj",
        "source: the hub's record of the repository",
        "source: exact, from the headers of its safetensors files",
    ):
        assert said in words


def test_a_quantized_copy_shows_its_own_bytes(seven: Any) -> None:
    words = " ".join(show("org/seven-awq").split())
    assert "as published awq: 3.88 GiB source: from the checkpoint's own headers" in words
    assert "own-licence, as its owner wrote it; the catalog does not know it" in words
    assert "made from org/seven" in words


def test_json_for_scripts(seven: Any) -> None:
    made = json.loads(show("org/seven-awq", "--json"))
    assert (made["id"], made["in_catalog"], made["licence"]) == ("org/seven-awq", False, "own-licence")
    assert made["parameters"] == MISTRAL.parameters == sum(made["components"].values())
    assert made["published"] == "awq"
    assert made["published_bytes"] == made["checkpoint"]["bytes"] == sum(made["checkpoint"]["bytes_by_dtype"].values())
    assert made["checkpoint"]["parameters"] is None
    assert made["kv_bytes_per_token"] == {"full": 131072, "sliding": 0}
    assert made["config"]["quantization_config"] == AWQ


def test_a_commit_can_be_named(seven: Any) -> None:
    commit = seven.repos["org/seven"].commit
    assert json.loads(show("org/seven", "--revision", commit, "--json"))["commit"] == commit
    with pytest.raises(InputError, match="no such revision"):
        show("org/seven", "--revision", "v2")


def test_a_folder_and_a_config_are_shown_without_a_hub(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL.config))
    for path in (str(tmp_path), str(tmp_path / "config.json")):
        shown = show(path)
        assert "7,248,023,552" in shown and "record was not read" in shown
    assert hub.seen == []


def test_a_model_of_the_catalog_is_not_asked_for(seven: Any) -> None:
    assert "the catalog" not in show(MISTRAL.id).splitlines()[0]
    assert seven.seen == []


def test_a_hub_without_records_still_shows_the_model(seven: Any) -> None:
    def without_records(handler: Any, path: str) -> bool:
        asked = path.startswith("/api/models/")
        if asked:
            handler.refuse(404, "", "none")
        return asked

    seven.tricks["hub"] = without_records
    assert "record was not read" in show("org/seven")


def test_offline_it_is_unknown_until_it_was_read_once(seven: Any) -> None:
    with pytest.raises(CatalogError, match=r"the hub was not asked \(--offline\)"):
        show("org/seven", "--offline")
    show("org/seven")
    seven.seen.clear()
    assert "7,248,023,552" in show("org/seven", "--offline")
    assert seven.seen == []
