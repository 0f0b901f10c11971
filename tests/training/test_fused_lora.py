"""A fused layer computes what PEFT's own computes, gradients included, and is gone when the run is over."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from onecard.training.fused_lora import Fused, _dropped

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def gradients(model, ids) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits = model(input_ids=ids).logits.float()
    torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def moved(trial, **recipe):
    made = trial(recipe={"compute_dtype": "fp32", **recipe})
    torch.manual_seed(4)
    for name, weight in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return made.model.train()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_answers_and_gradients_are_pefts(trial, quantization):
    model = moved(trial, base_quantization=quantization)
    ids = torch.randint(5, 90, (1, 23))
    ids[0, 3] = model.get_base_model().get_input_embeddings().token_adapter.token_indices["default"][0]
    plain, expected = model(input_ids=ids).logits, gradients(model, ids)
    with Fused(model, torch.float32) as fused:
        assert fused.layers == 14 and fused.whole
        assert sorted(len(group.members) for group in fused._groups) == [1, 1, 1, 1, 2, 2, 3, 3]
        torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=1e-5, atol=1e-5)
        found = gradients(model, ids)
    assert found.keys() == expected.keys() and any("trainable_tokens" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert not any("forward" in vars(module) for module in model.modules())


def test_int8_layers_stay_pefts(trial):
    model = moved(trial, base_quantization="int8")
    with Fused(model, torch.float32) as fused:
        assert fused.layers == 0 and not fused.whole


def test_an_evaluation_in_the_middle_is_pefts_own(trial):
    model = moved(trial, lora={"rank": 4, "alpha": 8, "dropout": 0.5}).eval()
    ids = torch.randint(5, 90, (1, 9))
    plain = model(input_ids=ids).logits
    with Fused(model, torch.float32):
        assert torch.equal(model(input_ids=ids).logits[..., :90], plain[..., :90])
        with model.disable_adapter():
            base = model(input_ids=ids).logits
    with model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, base)


def test_the_gradient_of_a_dropped_out_adapter_is_that_of_what_was_dropped(trial):
    """Backward the mask is drawn again: numbers around the values must agree with the gradient."""
    model = moved(trial, lora={"rank": 4, "alpha": 8, "dropout": 0.3}, base_quantization="none")
    ids = torch.randint(5, 90, (1, 15))
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.default.weight"
    weight = model.get_parameter(name)

    def lost() -> torch.Tensor:
        torch.manual_seed(9)
        logits = model(input_ids=ids).logits
        return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])

    with Fused(model, torch.float32) as fused:
        lost().backward()
        direction = torch.sign(weight.grad)
        expected = float((weight.grad * direction).sum())
        with torch.no_grad():
            weight += 1e-3 * direction
            fused.refresh()
            above = float(lost())
            weight -= 2e-3 * direction
            fused.refresh()
            below = float(lost())
    assert (above - below) / 2e-3 == pytest.approx(expected, rel=0.02)


def test_dropout_keeps_the_mean_and_the_same_seed_draws_the_same():
    x = torch.ones(400, 100)
    first, again, other = (_dropped(x, 0.25, noise)[0] for noise in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.mean()) == pytest.approx(1, abs=0.02)
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_a_pass_that_broke_off_between_two_layers_of_a_group_holds_nothing(trial):
    """What the others would have said hangs on every layer before it: with it, the smaller pass runs out of memory as well."""
    model = moved(trial, base_quantization="none")
    ids = torch.randint(5, 90, (1, 23))
    second = model.get_submodule("base_model.model.model.layers.1.self_attn.k_proj")
    seen = []
    with Fused(model, torch.float32) as fused:
        forward = second.forward

        def run_out(x):
            seen.append(weakref.ref(x))
            raise torch.OutOfMemoryError("CUDA out of memory")

        second.forward = run_out
        with pytest.raises(torch.OutOfMemoryError):
            model(input_ids=ids)
        second.forward = forward
        fused.refresh()
        gc.collect()
        assert seen[0]() is None
        assert gradients(model, ids)
