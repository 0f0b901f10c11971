"""One Linear in each form a base can have, made as transformers makes it, and how long it takes for so many tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bitsandbytes
import torch

from onecard.engines.local.calibration_card import Sizes, random_matrix, turns, wake
from onecard.engines.local.calibration_clock import Budget, By, Figure, Timed, growing, timed
from onecard.engines.local.loading import Quantization

FORMS: tuple[Quantization, ...] = (
    "none",
    "nf4",
    "int8",
)  # int8 last: the profiler that times it slows what comes after
OUTLIERS = 6  # columns of large activations, about what trained models of 7B have
MOST_BUFFERS = 8  # quantizing takes a CPU longer than it is worth; eight are more than a card's last cache
OUTLIER_TOKENS = (1, 64, 1024)
_BYTES_EACH = {"none": 2.0, "int8": 1.0, "nf4": 0.52}


@dataclass(frozen=True)
class LinearTime:
    """One Linear; see the evidence record of the same name."""

    form: Quantization
    tokens: int
    inputs: int
    outputs: int
    outlier_columns: int
    us: Figure
    called_us: Figure
    by: By


def linear_of(weight: torch.Tensor, form: Quantization, device: torch.device) -> Any:
    """A Linear without bias that holds `weight` [outputs, inputs], on the CPU in bf16, in the form, frozen and in eval mode."""
    outputs, inputs = weight.shape
    with torch.device("meta"):
        linear: Any = _empty(inputs, outputs, form)
    if form == "int8":
        linear.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(device)
    elif form == "nf4":
        settings = {"compress_statistics": True, "quant_type": "nf4", "quant_storage": torch.uint8, "module": linear}
        linear.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **settings).to(device)
        linear.support_avx512bf16_for_cpu = False  # as the engine loads it: repacking would spoil training
    else:
        linear.weight = torch.nn.Parameter(weight.to(device, copy=True), requires_grad=False)
    return linear.requires_grad_(False).eval()


def _empty(inputs: int, outputs: int, form: Quantization) -> torch.nn.Linear:
    if form == "int8":
        return bitsandbytes.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False, threshold=6.0)
    if form == "nf4":
        return bitsandbytes.nn.Linear4bit(
            inputs, outputs, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
        )
    return torch.nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16)


def linear_times(
    device: torch.device, sizes: Sizes, form: Quantization, seconds: float, missing: list[str]
) -> list[LinearTime]:
    """Times of the form over the tokens, for int8 with outliers too. What there was no time for is added to `missing`."""
    inputs, outputs = sizes.linear
    weight = (random_matrix(device, outputs, inputs) * inputs**-0.5).cpu()
    count = min(turns(device, sizes, int(_BYTES_EACH[form] * inputs * outputs)), MOST_BUFFERS)
    linears = [linear_of(weight, form, device) for _ in range(count)]
    asked = [(0, sizes.linear_tokens), *([(OUTLIERS, OUTLIER_TOKENS)] if form == "int8" else [])]
    found: list[LinearTime] = []
    wake(device)
    for (outliers, tokens), share in zip(asked, Budget(seconds).shares([len(t) for _, t in asked]), strict=True):
        what = f"{form}, {outliers} outlier columns" if outliers else form
        for size, taken in growing(tokens, share, _timing(device, linears, inputs, outliers), what, missing):
            found.append(LinearTime(form, size, inputs, outputs, outliers, taken.us, taken.called_us, taken.by))
    return found


def _timing(device: torch.device, linears: list[Any], inputs: int, outliers: int) -> Callable[[int, float], Timed]:
    """What times one of the Linears after another on so many tokens, the first columns of them large."""
    turn = itertools.cycle(linears)

    def one(tokens: int, seconds: float) -> Timed:
        rows = random_matrix(device, tokens, inputs)
        rows[:, :outliers] *= 20
        with torch.inference_mode():
            return timed(device, lambda: next(turn)(rows), seconds)

    return one
