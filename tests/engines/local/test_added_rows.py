"""Rows beside the base compute what PEFT's trainable tokens compute inside it, for tied and untied heads."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from onecard.engines.local.added_rows import AddedRows, RowsBesideTheBase

VOCABULARY = 32
IDS = torch.tensor([[1, 33, 5, 30], [1, 2, 3, 33]])  # 30 is the base's own and trained too; 32 and 33 are new


def tiny(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=tied, **sizes)).eval()


def peft_logits(tied: bool, rows: AddedRows) -> torch.Tensor:
    model = tiny(tied)
    model.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    layers = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices={name: list(rows.ids) for name in layers})
    wrapped = get_peft_model(model, config).eval()
    for name, weight in wrapped.named_parameters():
        if "trainable_tokens_delta" in name:
            weight.data.copy_(rows.head if "lm_head" in name else rows.embedding)
    with torch.no_grad():
        return wrapped(input_ids=IDS).logits


@pytest.mark.parametrize("tied", [True, False])
def test_rows_compute_what_peft_computes(tied: bool) -> None:
    embedding = torch.randn(3, 16)
    rows = AddedRows((33, 30, 32), embedding, embedding if tied else torch.randn(3, 16))
    model = tiny(tied)
    beside = RowsBesideTheBase(model)
    beside.choose([rows, rows])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, peft_logits(tied, rows))


def test_lines_without_rows_are_the_base_to_the_bit() -> None:
    model = tiny(tied=False)
    plain = IDS.clamp(max=VOCABULARY - 1)
    with torch.no_grad():
        before = model(input_ids=plain).logits
        beside = RowsBesideTheBase(model)
        beside.choose([AddedRows((32,), torch.randn(1, 16), torch.randn(1, 16)), None])
        mixed = model(input_ids=plain).logits
        beside.choose([None, None])
        assert torch.equal(model(input_ids=plain).logits, before)
    assert torch.equal(mixed[1, :, :VOCABULARY], before[1])
    assert bool((mixed[1, :, VOCABULARY:] == -torch.inf).all())
    assert mixed.shape[-1] == VOCABULARY + 1
