"""A LoRA made elsewhere gets a manifest that says what nobody knows, and is held against its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onecard.adapters.archive_plain import (
    ASSUMED_FIELDS,
    UNKNOWN_FIELDS,
    check_against_layers,
    manifest_of,
)
from onecard.adapters.manifest import AddedToken, BaseModelRecord, Manifest, OriginRecord
from onecard.adapters.store import Store
from onecard.adapters.verification import CONFIG, WEIGHTS
from onecard.errors import AdapterRefused

BASE = BaseModelRecord(id="org/base", fingerprint="f" * 64, quantization="none")
LAYERS = {f"model.layers.{i}.self_attn.{p}_proj.weight": (8, 8) for i in range(2) for p in "qvk"} | {
    "model.norm.weight": (8,),
    "model.embed_tokens.weight": (100, 8),
}


def made(folder: Path) -> Manifest:
    return manifest_of(folder, "writer", "terse", BASE, "c" * 64, (2,), "the folder trained")


def test_what_is_not_known_is_said_and_not_invented(store: Store, adapter: Path) -> None:
    manifest = made(adapter)
    check_against_layers(adapter, manifest, LAYERS)
    assert (manifest.rank, manifest.alpha, manifest.targets) == (4, 8.0, ("q_proj", "v_proj"))
    assert manifest.origin == OriginRecord(
        address="the folder trained", trained_here=False, unknown=UNKNOWN_FIELDS, assumed=ASSUMED_FIELDS
    )
    assert manifest.training is None and manifest.data_sha256 is None and manifest.recipe == {}
    stored = store.publish("writer", "terse", adapter, manifest)
    again = store.resolve("writer", f"terse@{stored.version}").manifest
    assert again == stored.manifest and not again.trained_here
    with pytest.raises(AdapterRefused, match="writer/terse@v0001 was not trained here"):
        again.run  # noqa: B018


def test_every_field_that_is_called_unknown_is_one(adapter: Path) -> None:
    flat = made(adapter).model_dump()
    for field in (*UNKNOWN_FIELDS, *ASSUMED_FIELDS):
        value: Any = flat
        for part in field.split("."):
            value = value[part]
        assert bool(value) == (field in ASSUMED_FIELDS)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"r": "4"}, "which are no numbers"),
        ({"lora_alpha": True}, "which are no numbers"),
        ({"lora_alpha": None}, "which are no numbers"),
        ({"target_modules": "all-linear"}, "target_modules is all-linear"),
        ({"target_modules": []}, "target_modules is"),
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"trainable_token_indices": {"embed_tokens": [100]}}, "no tokenizer.json beside it names these tokens"),
        ({"trainable_token_indices": [100]}, "no tokenizer.json beside it names these tokens"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    adapter: Path, makes: ModuleType, config: dict[str, Any], problem: str
) -> None:
    makes.write_adapter(adapter, **config)
    with pytest.raises(AdapterRefused, match=problem) as caught:
        made(adapter)
    assert caught.value.where


def test_added_tokens_get_their_names_from_the_tokenizer(adapter: Path, makes: ModuleType) -> None:
    makes.write_adapter(adapter, trainable_token_indices={"embed_tokens": [100, 101]})
    row = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    tensors = {**makes.lora_tensors(), row: ("F32", (2, 8), makes.floats(16))}
    (adapter / WEIGHTS).write_bytes(makes.safetensors_bytes(tensors))
    named = [{"id": 100, "content": "<A>"}, {"id": 101, "content": "<B>"}, {"id": 5, "content": "<pad>"}]
    (adapter / "tokenizer.json").write_text(json.dumps({"added_tokens": named}))
    assert made(adapter).added_tokens == (AddedToken(token="<A>", row=100), AddedToken(token="<B>", row=101))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda layers: layers.pop("model.layers.1.self_attn.q_proj.weight"), "which the base does not have"),
        (lambda layers: layers.update({"model.layers.2.self_attn.q_proj.weight": (8, 8)}), "no tensors for model.layers.2"),
        (lambda layers: layers.update({"model.layers.0.self_attn.q_proj.weight": (16, 8)}), r"the base's layer is \[16, 8\]"),
        (lambda layers: layers.update({"model.layers.0.self_attn.q_proj.weight": (8, 4)}), r"the base's layer is \[8, 4\]"),
        (lambda layers: layers.clear(), "no layers q_proj, v_proj in 16 or 32 bits"),
    ],
)  # fmt: skip
def test_another_base_is_refused(adapter: Path, change: Callable[[dict[str, Any]], Any], problem: str) -> None:
    layers = dict(LAYERS)
    change(layers)
    with pytest.raises(AdapterRefused, match=problem):
        check_against_layers(adapter, made(adapter), layers)


def test_a_folder_without_its_config_is_refused(adapter: Path) -> None:
    (adapter / CONFIG).unlink()
    with pytest.raises(AdapterRefused, match=f"no {CONFIG}"):
        made(adapter)
