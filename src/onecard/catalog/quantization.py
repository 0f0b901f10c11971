"""Bytes of a model's weights in each form they can be held in, tensor by tensor as the libraries store them.

nf4 and int8 are what bitsandbytes 0.50.2 keeps (checked against its real tensors in the tests); only Linear layers are converted,
never the embeddings, the head, norms, or experts held as 3-D parameters. awq and gptq are 4-bit checkpoints with groups of 128.
"""

from __future__ import annotations

from typing import Literal

from onecard.catalog.shapes import Layout, LinearShape

Quantization = Literal["none", "int8", "nf4", "awq", "gptq", "fp8"]
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4", "awq", "gptq", "fp8")

NF4_BLOCK = 64  # weights that share one absmax
NESTED_BLOCK = 256  # absmaxes that share one nested absmax under double quantization
NF4_CODE_BYTES = 16 * 4  # the 16 fp32 levels, one copy per Linear
NESTED_CODE_BYTES = 256 * 4  # the 256 fp32 levels of the nested form, one copy per Linear
GROUP = 128  # weights along the input that share a scale and a zero in awq and gptq


def nf4_bytes(weights: int, *, double_quantization: bool = True) -> int:
    """Bytes of one Linear4bit weight of so many parameters: packed halves, absmax per block of 64, levels.

    With double quantization each absmax is one byte and every 256 of them share an fp32, plus one fp32 offset.
    Source: bitsandbytes 0.50.2, functional.quantize_4bit.
    """
    blocks = -(-weights // NF4_BLOCK)
    packed = -(-weights // 2)
    nested = blocks + 4 * -(-blocks // NESTED_BLOCK) + 4 + NESTED_CODE_BYTES
    return packed + (nested if double_quantization else 4 * blocks) + NF4_CODE_BYTES


def linear_bytes(
    shape: LinearShape, quantization: Quantization, *, double_quantization: bool = True, dtype_bytes: int = 2
) -> int:
    """Bytes of all `shape.count` Linears in this form, biases included (they keep the model's dtype).

    `none` is `dtype_bytes` a weight. int8 is a byte a weight and one fp32 a row. awq: 4 bits, a 16-bit scale and a 4-bit zero per
    group of 128 and row; gptq the same plus an int32 group index per input. fp8: a byte a weight and one fp32 a row.
    """
    weights, rows = shape.in_features * shape.out_features, shape.out_features
    groups = -(-shape.in_features // GROUP) * rows
    if not shape.quantized or quantization == "none":
        each = weights * dtype_bytes
    elif quantization == "nf4":
        each = nf4_bytes(weights, double_quantization=double_quantization)
    elif quantization in ("int8", "fp8"):
        each = weights + 4 * rows
    else:
        each = weights // 2 + 2 * groups + groups // 2 + (4 * shape.in_features if quantization == "gptq" else 0)
    return each * shape.count + shape.biases * dtype_bytes


def component_bytes(
    layout: Layout, quantization: Quantization, *, double_quantization: bool = True, dtype_bytes: int = 2
) -> dict[str, int]:
    """Bytes by component (biases with their Linears under "linear"); what is not a Linear keeps `dtype_bytes` a parameter.

    awq, gptq and fp8 checkpoints convert the language model's Linears only; int8 and nf4 convert every Linear marked `quantized`.
    """
    sizes: dict[str, int] = {component: count * dtype_bytes for component, count in layout.rest.items() if count}
    for shape in layout.linears:
        checkpoint = quantization in ("awq", "gptq", "fp8") and shape.component != "linear"
        form: Quantization = "none" if checkpoint else quantization
        size = linear_bytes(shape, form, double_quantization=double_quantization, dtype_bytes=dtype_bytes)
        sizes[shape.component] = sizes.get(shape.component, 0) + size
    return sizes


def weight_bytes(
    layout: Layout, quantization: Quantization, *, double_quantization: bool = True, dtype_bytes: int = 2
) -> int:
    """Bytes of all weights of a model held in this form: the sum of `component_bytes`."""
    return sum(
        component_bytes(layout, quantization, double_quantization=double_quantization, dtype_bytes=dtype_bytes).values()
    )
