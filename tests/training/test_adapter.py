"""The adapter on disk: the same bytes for the same weights, no path of this machine, and the same logits when it is loaded."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from onecard.engines.local.loading import load_base
from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import DiskFull, InputError
from onecard.fleet.recipe import LoraSection
from onecard.training import adapter
from onecard.training.added_tokens import extend_model
from onecard.training.preparation import extend_tokenizer

LORA = LoraSection(rank=4, alpha=8, dropout=0.0)
PROJECTIONS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


def fresh(folder, quantization="none", dtype="bf16"):
    return load_base(folder, quantization, double_quantization=True, dtype=dtype, device="cpu")


def moved(folder, quantization="none", tokens=(), lora=LORA):
    """An adapter whose weights are all random, as if it had been trained."""
    base, tokenizer = fresh(folder, quantization), load_tokenizer(folder)
    added = extend_tokenizer(tokenizer, tokens)
    extend_model(base, tokenizer, added)
    torch.manual_seed(5)
    model = adapter.attach(base, lora, added).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(torch.randn_like(weight) * 0.1)
    return model, (tokenizer if tokens else None)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_saved_adapter_answers_the_same_in_a_fresh_base(request, tmp_path, kind, quantization):
    folder = request.getfixturevalue(kind)
    model, tokenizer = moved(folder, quantization, ("<STYLE_TERSE>", "<STYLE_VERBOSE>"))
    adapter.save(model, tmp_path, "tiny", tokenizer)
    ids = torch.tensor([[1, len(tokenizer) - 1, 40, 41, len(tokenizer) - 2]])
    again = adapter.load(fresh(folder, quantization), tmp_path)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
        with again.disable_adapter():
            assert not torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_the_files_hold_the_adapter_alone_and_no_path(untied, tmp_path):
    model, tokenizer = moved(untied, tokens=("<STYLE_TERSE>",))
    adapter.save(model, tmp_path, "org/name", tokenizer)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {adapter.WEIGHTS, adapter.CONFIG, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    text = "".join(file.read_text() for file in tmp_path.glob("*.json"))
    assert str(untied) not in text and str(untied.parent) not in text
    config = json.loads((tmp_path / adapter.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "org/name"
    assert config["target_modules"] == list(PROJECTIONS)
    state = load_file(tmp_path / adapter.WEIGHTS)
    assert all("lora_" in name or "trainable_tokens" in name for name in state)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert sum(tensor.shape == (1, 64) for tensor in state.values()) == 2  # the token's row of embedding and of head


def test_all_linear_leaves_the_head_alone(untied):
    model, _ = moved(untied)
    assert adapter.targets_of(model) == PROJECTIONS


def test_named_targets_are_followed(untied):
    model, _ = moved(untied, lora=LoraSection(rank=2, alpha=4, targets=("q_proj", "v_proj")))
    assert {name.split(".")[-3] for name in adapter.adapter_state(model)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("target", "hint"), [("q_prj", "did you mean 'q_proj'"), ("lm_head", ""), ("query_key_value", "")]
)
def test_a_target_the_base_does_not_have_is_refused(untied, target, hint):
    with pytest.raises(InputError, match=f"no linear module '{target}'") as error:
        adapter.attach(fresh(untied), LoraSection(targets=("q_proj", target)), ())
    assert hint in error.value.problem and "q_proj" in error.value.allowed


def test_a_full_disk_is_said(untied, tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter, "write_new", no_room)
    with pytest.raises(DiskFull):
        adapter.save(moved(untied)[0], tmp_path, "tiny", None)
