"""Training steps train: gradients reach the adapter in fp32, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from onecard.engines.local import calibration_training as training
from onecard.engines.local.calibration_models import ON_A_CPU
from onecard.engines.local.calibration_training import train_once, training_steps

CPU = torch.device("cpu")


@pytest.mark.parametrize("form", ["none", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_gives_every_adapter_weight_a_gradient(form: Any, checkpointing: bool) -> None:
    model = training._trainable(2, form, ON_A_CPU, CPU, checkpointing=checkpointing)
    training._forward_and_backward(model, torch.randint(ON_A_CPU.vocabulary, (1, 8)))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(trained) == 2 * 7 * 2
    assert all(weight.dtype == torch.float32 and torch.isfinite(weight.grad).all() for weight in trained)
    assert any(weight.grad.abs().sum() > 0 for weight in trained)
    assert model.base_model.model.is_gradient_checkpointing == checkpointing


def test_every_case_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LAYERS", (1, 2))
    steps = training_steps(CPU, "nf4", ON_A_CPU, seconds=0.0)
    assert {(s.layers, s.checkpointing) for s in steps} == {(1, False), (1, True), (2, False), (2, True)}
    assert all(s.us.low > 0 and s.tokens == ON_A_CPU.train_tokens for s in steps)


def test_a_whole_step_with_an_8_bit_optimizer_runs() -> None:
    train_once(CPU, ON_A_CPU)
