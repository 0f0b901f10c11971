"""Norms and gated MLPs say what the architecture's own say, keep less, and are gone when the run is over."""

from __future__ import annotations

import gc

import pytest
import torch
import transformers

from onecard.training.fused_layers import FusedLayers

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
# (config, norms taken, gated MLPs taken)
CASES = {
    "llama": (transformers.LlamaConfig(**SMALL), 5, 2),
    "qwen3, norms of heads too": (transformers.Qwen3Config(**SMALL, head_dim=16), 9, 2),
    "gemma3, one added to weights, gelu": (transformers.Gemma3TextConfig(**SMALL, head_dim=16), 13, 0),
    "gpt_neox, layer norms": (
        transformers.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
        0,
        0,
    ),
}


@pytest.mark.parametrize(("config", "norms", "gates"), CASES.values(), ids=CASES.keys())
def test_what_is_taken_says_the_same_with_the_same_gradients(config, norms, gates):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, 0.5, 0.2)
    ids = torch.randint(1, 96, (2, 9))

    def gradients():
        model.zero_grad()
        logits = model(input_ids=ids).logits
        logits.square().mean().backward()
        return logits.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}

    plain, expected = gradients()
    with FusedLayers(model) as fused:
        assert (fused.norms, fused.gates) == (norms, gates)
        if not norms + gates:
            return
        logits, found = gradients()
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-5)
    for name in expected.keys() & found.keys():  # a run freezes the weights of norms
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6, msg=name)
    assert "model.embed_tokens.weight" in found
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_layer_that_says_something_else_is_left_alone():
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SMALL))
    own = type(model.model.layers[0].mlp)

    class Louder(own):
        def forward(self, x):
            return 2 * super().forward(x)

    model.model.layers[0].mlp.__class__ = Louder
    with FusedLayers(model) as fused:
        assert fused.gates == 1


def kept_bytes(model, ids) -> int:
    """What a forward pass keeps for the backward pass, bytes, tensors that share their memory once."""
    kept: dict[int, int] = {}
    layers = model.model.layers

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model(input_ids=ids, use_cache=False).logits
    # What a layer's own hooks keep does not come by here; it lives as long as the answer does.
    gc.collect()
    alive = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if torch.is_tensor(t)
    }
    assert states.requires_grad and layers
    return sum({**kept, **alive}.values())


def test_a_recomputed_layer_keeps_nothing_of_its_mlp():
    """The trap: hooks inside a checkpointed layer come before the checkpoint's own, and keep what it would drop."""
    config = transformers.LlamaConfig(**{**SMALL, "intermediate_size": 4096, "num_hidden_layers": 3})
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    ids = torch.randint(1, 96, (1, 64))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    plain = kept_bytes(model, ids)
    with FusedLayers(model) as fused:
        assert fused.gates == 3
        assert kept_bytes(model, ids) < plain + 64 * 4096 * 4
