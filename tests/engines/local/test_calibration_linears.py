"""What is timed is what runs: the Linears are those that transformers makes of a checkpoint, and they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from onecard.engines.local.calibration_card import MIB, Sizes
from onecard.engines.local.calibration_linears import FORMS, OUTLIERS, linear_of, linear_times
from onecard.engines.local.loading import load_base

CPU = torch.device("cpu")
TINY = Sizes(4 * MIB, 1 * MIB, ((64, 64),), (64, 128), (1, 4))


def settings_of(linear: Any) -> dict[str, Any]:
    """What decides how a quantized Linear computes and what it holds."""
    state = getattr(linear.weight, "quant_state", None)
    return {
        "class": type(linear),
        "weight": (type(linear.weight), linear.weight.dtype, linear.weight.requires_grad),
        "compute": getattr(linear, "compute_dtype", None),
        "repacks": getattr(linear, "support_avx512bf16_for_cpu", None),
        "state": None if state is None else (state.quant_type, state.nested, state.blocksize, state.dtype),
        "threshold": getattr(getattr(linear, "state", None), "threshold", None),
        "fp16 weights": getattr(getattr(linear, "state", None), "has_fp16_weights", None),
        "training": linear.training,
    }


@pytest.mark.parametrize("form", FORMS)
def test_it_is_made_as_transformers_makes_it(form: Any, mini: Path) -> None:
    base = load_base(mini, form, double_quantization=True, dtype="bf16", device="cpu")
    real = next(module for name, module in base.model.named_modules() if name.endswith("gate_proj"))
    ours = linear_of(torch.randn(real.out_features, real.in_features, dtype=torch.bfloat16), form, CPU)
    assert settings_of(ours) == settings_of(real)


@pytest.mark.parametrize("form", FORMS)
def test_it_multiplies_by_the_weight_it_was_given(form: Any) -> None:
    torch.manual_seed(0)
    weight = torch.randn(128, 64, dtype=torch.bfloat16) / 8
    rows = torch.randn(4, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        answer, exact = linear_of(weight, form, CPU)(rows), rows @ weight.t()
    assert (answer - exact).abs().mean() / exact.abs().mean() < {"none": 0.01, "int8": 0.05, "nf4": 0.2}[form]


def test_every_size_is_timed_and_int8_with_outliers_too() -> None:
    missing: list[str] = []
    rows = linear_times(CPU, TINY, "int8", 2.0, missing)
    cases = {(row.tokens, row.outlier_columns) for row in rows}
    assert {(1, 0), (4, 0), (1, OUTLIERS), (64, OUTLIERS)} <= cases
    assert all(row.us.low > 0 and row.by == "clock" and (row.inputs, row.outputs) == (64, 128) for row in rows)
    assert {row.outlier_columns for row in linear_times(CPU, TINY, "nf4", 0.1, [])} == {0}
