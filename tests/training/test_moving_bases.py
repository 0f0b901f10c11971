"""One recipe moves to another base by naming it (document E9): targets, template, layout and tokens follow, or the move is refused.

The bases are random models of two layers with the embedded base's tokenizer, so that each architecture runs its own code.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bitsandbytes.nn import Linear4bit

from onecard.adapters.store import Store
from onecard.engines.local.acceptance import accept, base_facts
from onecard.engines.local.loading import load_base
from onecard.engines.local.shared_model import SharedModel
from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import InputError
from onecard.fleet.loader import load_recipe
from onecard.fleet.schema import Preset
from onecard.training import adapter
from onecard.training.order import TrainingOrder
from onecard.training.preparation import prepare
from onecard.training.training import train_adapter

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NEOX = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}
FALCON = {key: value for key, value in NEOX.items() if key not in ("intermediate_size", "max_position_embeddings")}
MPT = {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 2048}
GPTJ = {
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 2048,
    "rotary_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_heads": 8,
    "head_dim": 16,
    "n_groups": 2,
    "state_size": 8,
    "chunk_size": 32,
}
LLAMA_NAMES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
NEOX_NAMES = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
SPARE_ROWS = 64  # published embeddings often have more rows than their tokenizer has tokens

# (model_type, tied head, config, linear modules of a layer, whether its rows can be packed)
BASES = [
    ("qwen2", True, COMMON, LLAMA_NAMES, True),
    ("qwen3", False, {**COMMON, "head_dim": 16, "spare": SPARE_ROWS}, LLAMA_NAMES, True),
    ("mistral", False, COMMON, LLAMA_NAMES, True),
    ("gpt_neox", False, NEOX, NEOX_NAMES, True),
    ("falcon", True, FALCON, NEOX_NAMES, False),
    ("mpt", True, MPT, {"Wqkv", "out_proj", "up_proj", "down_proj"}, False),
    ("phi3", False, COMMON, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, True),
    ("starcoder2", True, COMMON, {"q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"}, True),
    ("gemma3_text", True, {**COMMON, "head_dim": 16, "sliding_window": 64}, LLAMA_NAMES, True),
]
QUICK = {"learning_rate": 5e-3, "schedule": "constant", "warmup_ratio": 0.0}


@pytest.fixture
def base_of(embedded: Path, tmp_path: Path) -> Callable[..., Path]:
    """A random base of a model type, with the embedded base's tokenizer."""

    def make(model_type: str, config: dict[str, Any], *, tied: bool = False) -> Path:
        folder = tmp_path / "base"
        folder.mkdir()
        for file in (*embedded.glob("*token*.json"), *embedded.glob("*.jinja"), *embedded.glob("generation*.json")):
            shutil.copy(file, folder)
        own = {key: value for key, value in config.items() if key != "spare"}
        rows = len(load_tokenizer(embedded)) + config.get("spare", 0)
        own |= {"vocab_size": rows, "tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2}
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **own))
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def moved(order: Callable[..., TrainingOrder]) -> Callable[..., TrainingOrder]:
    """The shipped style-tokens recipe on a base, made quick; nothing in it names an architecture."""
    shipped = load_recipe("style-tokens", Path(), "recipe")
    quick = {**shipped, "optimizer": {**shipped["optimizer"], **QUICK}, "max_steps": 4}

    def make(base: Path, **changes: Any) -> TrainingOrder:
        return order(base_folder=base, recipe={**quick, **changes})

    return make


def held(base: Path) -> Any:
    return load_base(base, "nf4", double_quantization=True, dtype="bf16", device="cpu")


def engine_of(base: Path, folder: Path, manifest: Any) -> tuple[SharedModel, Any]:
    """The engine's base with the published adapter in it."""
    loaded = held(base)
    taken = accept(folder, manifest, base_facts(loaded, manifest.base.fingerprint, "nf4", True))
    shared = SharedModel(loaded)
    return shared, shared.add_if_it_acts(taken, [1, 40, 41, 7])


@pytest.mark.parametrize(
    ("model_type", "tied", "config", "names", "packed"),
    [pytest.param(*base, id=f"{base[0]}-{'tied' if base[1] else 'untied'}") for base in BASES],
)
def test_the_style_recipe_moves(base_of, moved, tmp_path, model_type, tied, config, names, packed):
    """Trained, checked, saved, loaded back exactly (train_adapter does), published, and taken by the engine that serves it."""
    base = base_of(model_type, config, tied=tied)
    made = train_adapter(moved(base), lambda _: None)
    assert set(made.manifest.targets) == names
    assert ("rows are padded" in str(made.manifest.model_dump(mode="json"))) is not packed
    stored = Store(tmp_path / "store").publish("writer", "style", made.folder, made.manifest)
    shared, resident = engine_of(base, stored.folder, stored.manifest)
    peft = adapter.load(held(base), made.folder)
    if model_type != "falcon":  # see below
        assert quantized(peft) == names
    tokens = [token.row for token in made.manifest.added_tokens]
    assert len(tokens) == 2 and tokens[0] == len(load_tokenizer(base))
    ids = torch.tensor([[1, tokens[0], 40, tokens[1], 7]])
    assert_same_answers(shared, resident, peft, ids)


def quantized(model: Any) -> set[str]:
    """The names of the modules held in four bits."""
    names = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    return {name.removesuffix(".base_layer").rpartition(".")[2] for name in names}


@pytest.mark.xfail(reason="transformers 5.19 quantizes no Falcon: its layers are a subclass of Linear", strict=True)
def test_falcon_is_held_in_four_bits(base_of):
    assert quantized(held(base_of("falcon", FALCON, tied=True)).model) == NEOX_NAMES


def assert_same_answers(shared: SharedModel, resident: Any, peft: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        trained = peft(input_ids=ids).logits[0].float()
    answered = shared.forward([resident], ids, torch.ones_like(ids), keep=ids.shape[1])[0]
    torch.testing.assert_close(answered[:, : trained.shape[1]], trained, rtol=2e-2, atol=2e-2)


def test_rows_of_a_base_that_scales_its_embeddings_are_read_as_they_were_trained(base_of, moved, tmp_path):
    _, tied, config, _, _ = next(base for base in BASES if base[0] == "gemma3_text")
    base = base_of("gemma3_text", config, tied=tied)
    made = train_adapter(moved(base), lambda _: None)
    stored = Store(tmp_path / "store").publish("writer", "style", made.folder, made.manifest)
    first, second = (token.row for token in made.manifest.added_tokens)
    peft, ids = adapter.load(held(base), made.folder), torch.tensor([[1, first, 40, second, 7]])
    assert_same_answers(*engine_of(base, stored.folder, stored.manifest), peft, ids)


def test_a_head_with_a_bias_takes_the_recipe_without_its_tokens(base_of, moved):
    """GPT-J and Phi-2: PEFT's trained rows would drop the bias, so they are refused with that reason, and the rest of the recipe runs."""
    base = base_of("gptj", GPTJ)
    with pytest.raises(InputError, match="head has a bias") as error:
        train_adapter(moved(base), lambda _: None)
    assert "added_tokens" in error.value.next_step
    plain = replace(moved(base, added_tokens=()), presets={"terse": Preset(), "verbose": Preset()})
    made = train_adapter(plain, lambda _: None)
    assert set(made.manifest.targets) == {"q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"}


def test_layers_that_no_adapter_reaches_are_left_out_or_refused(base_of, moved):
    """Mamba's kernels read out_proj's weight past an adapter on it."""
    base = base_of("mamba2", MAMBA)
    made = train_adapter(moved(base, max_steps=3), lambda _: None)
    assert made.manifest.targets == ("in_proj",)
    with pytest.raises(InputError, match="'out_proj'"):
        adapter.attach(held(base), moved(base).recipe.lora.model_copy(update={"targets": ("out_proj",)}), ())


def test_the_chat_template_is_the_bases_own(base_of, moved):
    """Another base's template makes other prompts of the same rows, and the manifest says which one it was."""
    base = base_of("qwen2", COMMON)

    def prepared() -> Any:
        made = moved(base)
        return prepare(made.data_file, base, made.recipe, made.presets)

    before = prepared()
    template = base / "chat_template.jinja"
    template.write_text(template.read_text().replace("[INST]", "Asked:"), encoding="utf-8")
    after = prepared()
    assert before.facts.chat_template_sha256 != after.facts.chat_template_sha256
    for one, other in zip(before.ledger.encoded, after.ledger.encoded, strict=True):
        assert one.ids[: one.prompt_tokens] != other.ids[: other.prompt_tokens]
        assert one.ids[one.prompt_tokens :] == other.ids[other.prompt_tokens :]
