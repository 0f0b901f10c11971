"""Adapter folders that would not answer as themselves are refused with the reason; what PEFT really writes passes."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onecard.adapters.manifest import Manifest
from onecard.adapters.store import Store
from onecard.adapters.verification import CONFIG, CONFIG_LIMIT_BYTES, WEIGHTS, check_adapter, differences, digest_of
from onecard.errors import AdapterRefused

FIRST = "base_model.model.model.layers.0.self_attn.q_proj"
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
TOKENS = ({"token": "<TERSE>", "row": 100}, {"token": "<VERBOSE>", "row": 101})


def refused(store: Store, adapter: Path, manifest: Manifest, problem: str) -> None:
    """Refused by the check itself and by publishing, and the store has no trace of it."""
    with pytest.raises(AdapterRefused, match=problem) as caught:
        check_adapter(adapter, manifest)
    assert caught.value.where
    with pytest.raises(AdapterRefused, match=problem):
        store.publish("writer", "style", adapter, manifest)
    assert not store.root.exists()


def test_a_good_adapter_passes(adapter: Path, makes: ModuleType) -> None:
    check_adapter(adapter, makes.a_manifest())
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        (adapter / name).write_text("{}")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    (adapter / "manifest.json").write_text("{}")
    check_adapter(adapter, makes.a_manifest(chat_template_sha256=sha256(b"{{ messages }}").hexdigest()))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("adapter_model.bin", "pickle"),
        ("training_args.bin", "pickle"),
        ("optimizer.pt", "pickle"),
        ("x.pkl", "pickle"),
        ("model.safetensors", "not a file of an adapter"),
        ("adapter_model.safetensors.py", "not a file of an adapter"),
        ("tokenizer.py", "not a file of an adapter"),
        (".hidden", "not a file of an adapter"),
        ("tokenizer\n.json", "not a file of an adapter"),
    ],
)
def test_other_files_are_refused(store: Store, adapter: Path, makes: ModuleType, name: str, problem: str) -> None:
    (adapter / name).write_bytes(b"x")
    refused(store, adapter, makes.a_manifest(), problem)


def test_links_folders_and_pipes_are_refused(store: Store, adapter: Path, makes: ModuleType, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    extra = adapter / "README.md"
    for make in (lambda: extra.symlink_to(secret), extra.mkdir, lambda: os.mkfifo(extra)):
        extra.unlink(missing_ok=True)
        make()
        refused(store, adapter, makes.a_manifest(), "link|folder")
        if extra.is_dir() and not extra.is_symlink():
            extra.rmdir()


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_both_files_are_needed(store: Store, adapter: Path, makes: ModuleType, name: str) -> None:
    (adapter / name).unlink()
    refused(store, adapter, makes.a_manifest(), f"no {name}")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"r": 8}, "r is 8, expected 4"),
        ({"lora_alpha": 16}, "lora_alpha is 16, expected 8"),
        ({"target_modules": ["q_proj"]}, r"target_modules is \['q_proj'\]"),
        ({"target_modules": "all-linear"}, "target_modules is 'all-linear'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_the_config_must_be_the_manifests(
    store: Store, adapter: Path, makes: ModuleType, config: dict[str, Any], problem: str
) -> None:
    makes.write_adapter(adapter, **config)
    refused(store, adapter, makes.a_manifest(), problem)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, bytes(CONFIG_LIMIT_BYTES + 1)])
def test_a_broken_config_is_refused(store: Store, adapter: Path, makes: ModuleType, content: bytes) -> None:
    (adapter / CONFIG).write_bytes(content)
    refused(store, adapter, makes.a_manifest(), "not valid JSON|not a JSON object|over the limit")


Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def number(value: float, position: int) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        name = f"{FIRST}.lora_A.weight"
        dtype, shape, content = tensors[name]
        mine = bytearray(content)
        struct.pack_into("<f", mine, 4 * position, value)
        tensors[name] = (dtype, shape, bytes(mine))

    return change


def setting(name: str, *tensor: Any) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, tensor)  # type: ignore[arg-type]


def without(*names: str) -> Callable[[Tensors], None]:
    return lambda tensors: [tensors.pop(name) for name in names] and None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without(f"{FIRST}.lora_B.weight"), "lora_A without its other half"),
        (without(f"{FIRST}.lora_A.weight"), "lora_B without its other half"),
        (lambda tensors: [tensors.pop(n) for n in list(tensors) if "v_proj" in n], "no tensors for the target v_proj"),
        (lambda tensors: tensors.clear(), "no tensors for the target"),
        (number(math.nan, 0), "infinities or NaN"),
        (number(math.inf, 31), "infinities or NaN"),
        (number(-math.inf, 7), "infinities or NaN"),
        (setting(f"{FIRST}.lora_B.weight", "F32", (8, 4), bytes(128)), "no effect"),
        (setting(f"{FIRST}.lora_B.weight", "BF16", (8, 4), b"\x00\x80" * 32), "no effect"),
        (setting(f"{FIRST}.lora_B.weight", "F32", (4, 8), struct.pack("<32f", *[1.0] * 32)), "not of rank 4"),
        (setting(f"{FIRST}.lora_B.weight", "F32", (8, 2, 2), struct.pack("<32f", *[1.0] * 32)), "not of rank 4"),
        (setting(f"{FIRST}.lora_A.weight", "F32", (4, 0), b""), "not of rank 4"),
        (setting(f"{FIRST}.lora_A.weight", "I32", (4, 8), bytes(128)), "is I32"),
        (setting("lm_head.weight", "F32", (1, 1), bytes(4)), "nobody would load"),
        (setting(f"{FIRST}.lora_A.default.weight", "F32", (1, 1), bytes(4)), "nobody would load"),
        (setting(ROWS, "F32", (2, 8), bytes(64)), "0 added tokens in the manifest and 1 tensors"),
    ],
)
def test_tensors_that_are_not_the_adapter_are_refused(
    store: Store, adapter: Path, makes: ModuleType, change: Callable[[Tensors], None], problem: str
) -> None:
    tensors = makes.lora_tensors()
    change(tensors)
    (adapter / WEIGHTS).write_bytes(makes.safetensors_bytes(tensors))
    refused(store, adapter, makes.a_manifest(), problem)


def test_a_target_that_the_manifest_does_not_name_is_refused(store: Store, adapter: Path, makes: ModuleType) -> None:
    makes.write_adapter(adapter, target_modules=["q_proj", "k_proj"])
    refused(store, adapter, makes.a_manifest(targets=("q_proj", "k_proj")), "v_proj is none of the targets")


def test_added_tokens_have_their_rows(store: Store, adapter: Path, makes: ModuleType) -> None:
    manifest = makes.a_manifest(added_tokens=TOKENS)
    refused(store, adapter, manifest, "trainable_token_indices is None")
    makes.write_adapter(adapter, trainable_token_indices={"embed_tokens": [100, 101]})
    refused(store, adapter, manifest, "brings no tokenizer.json")
    tokens = [{"content": token["token"], "id": token["row"]} for token in TOKENS]
    (adapter / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    refused(store, adapter, manifest, "2 added tokens in the manifest and 0 tensors")
    for rows, good in ((1, False), (2, True)):
        tensors = {**makes.lora_tensors(), ROWS: ("F32", (rows, 8), makes.floats(rows * 8))}
        (adapter / WEIGHTS).write_bytes(makes.safetensors_bytes(tensors))
        if good:
            check_adapter(adapter, manifest)
        else:
            refused(store, adapter, manifest, "for 2 added tokens")


def test_every_change_of_a_published_folder_is_found(
    tmp_path: Path, store: Store, adapter: Path, makes: ModuleType
) -> None:
    stored = store.publish("writer", "style", adapter, makes.a_manifest())
    assert differences(stored.folder, stored.manifest) == []
    readme = stored.folder / "README.md"
    readme.chmod(0o644)
    readme.write_text("An adapter for tesTs.\n")
    assert "README.md: sha256" in differences(stored.folder, stored.manifest)[0]
    readme.unlink()
    assert differences(stored.folder, stored.manifest) == ["README.md: missing"]
    readme.symlink_to(adapter / "README.md")
    assert differences(stored.folder, stored.manifest) == ["README.md: no longer a plain file"]
    (stored.folder / "more.txt").touch()
    assert "more.txt: not in the manifest" in differences(stored.folder, stored.manifest)
    forged = stored.manifest.model_copy(update={"files": {**stored.manifest.files, "README.md": "0" * 64}})
    assert "manifest.json: its digest is not that of its list of files" in differences(stored.folder, forged)


def test_the_digest_is_over_sorted_lines() -> None:
    import hashlib

    assert digest_of({"b": "2", "a": "1"}) == hashlib.sha256(b"a 1\nb 2\n").hexdigest()


def test_what_peft_writes_passes(tmp_path: Path, makes: ModuleType) -> None:
    """A real LoRA with trained token rows on a tiny random Mistral, saved by PEFT itself."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    config = transformers.MistralConfig(num_attention_heads=2, num_key_value_heads=1, **shape)
    model = peft.get_peft_model(
        transformers.MistralForCausalLM(config),
        peft.LoraConfig(
            r=2,
            lora_alpha=4,
            target_modules=["q_proj", "down_proj"],
            trainable_token_indices={"embed_tokens": [60, 61]},
        ),
    )
    manifest = makes.a_manifest(
        rank=2,
        alpha=4,
        targets=("down_proj", "q_proj"),
        added_tokens=({"token": "<A>", "row": 60}, {"token": "<B>", "row": 61}),
    )
    tokens = json.dumps({"added_tokens": [{"content": "<A>", "id": 60}, {"content": "<B>", "id": 61}]})
    model.save_pretrained(tmp_path / "untrained")
    (tmp_path / "untrained" / "tokenizer.json").write_text(tokens)
    with pytest.raises(AdapterRefused, match="no effect"):
        check_adapter(tmp_path / "untrained", manifest)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        folder = tmp_path / str(dtype)
        model.to(dtype).save_pretrained(folder)
        (folder / "tokenizer.json").write_text(tokens)
        assert json.loads((folder / CONFIG).read_text())["auto_mapping"], "PEFT names the class when no task is given"
        check_adapter(folder, manifest)
