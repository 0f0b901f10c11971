"""Texts in one pass never see one another, and what cannot keep them apart is found out."""

from __future__ import annotations

import pytest
import torch
import transformers

from onecard.training import packed_attention
from onecard.training.packed_attention import cut_at, keeps_apart, packing

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
KEPT = {
    "llama": transformers.LlamaConfig(**SMALL, num_key_value_heads=2),
    "mistral, window": transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=5),
    "qwen3": transformers.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16),
    "gpt_neox": transformers.GPTNeoXConfig(**SMALL),
    "phi3": transformers.Phi3Config(**SMALL, num_key_value_heads=2, pad_token_id=0),
    "gemma3": transformers.Gemma3TextConfig(**SMALL, num_key_value_heads=2, head_dim=16, sliding_window=4),
    "olmo3": transformers.Olmo3Config(**SMALL, num_key_value_heads=2, pad_token_id=0),
}
OTHERS = {
    "mpt": transformers.MptConfig(d_model=48, n_heads=4, n_layers=2, vocab_size=96, max_seq_len=256),
    "mamba": transformers.MambaConfig(vocab_size=96, hidden_size=48, state_size=8, num_hidden_layers=2),
    "gemma2, soft cap": transformers.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=16),
    "llama4, chunks": transformers.Llama4TextConfig(
        **SMALL,
        intermediate_size_mlp=96,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        attention_chunk_size=32,
    ),
    "falcon, alibi": transformers.FalconConfig(
        vocab_size=96, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
}


def made(config):
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("config", KEPT.values(), ids=KEPT.keys())
def test_packed_texts_say_what_each_says_alone(config):
    model = made(config)
    assert keeps_apart(model, 96)
    texts = [torch.randint(1, 96, (1, length)) for length in (11, 3, 17)]
    alone = torch.cat([model(input_ids=ids).logits for ids in texts], dim=1)
    positions = torch.cat([torch.arange(ids.shape[1]) for ids in texts])[None]
    with packing(model), cut_at([11, 3, 17], torch.device("cpu")):
        joined = model(input_ids=torch.cat(texts, dim=1), position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(joined, alone, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())
def test_an_architecture_that_would_leak_is_found_out(config):
    model = made(config)
    assert not keeps_apart(model, 96)
    assert not model.training


def test_a_leak_is_seen(monkeypatch):
    """Without the cuts the second text sees the first; the probe must say so."""
    model = made(KEPT["llama"])
    real = packed_attention.attend

    def leaking(*asked, **named):
        packed_attention._cuts.lengths = (sum(packed_attention._cuts.lengths),)
        return real(*asked, **named)

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, packed_attention.NAME, leaking)
    assert not keeps_apart(model, 96)
