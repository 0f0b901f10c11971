"""Bytes of a model's weights in each form they can be held in, tensor by tensor as the libraries store them.

A `Storage` says how one Linear is kept (storages.py has them all); a wish such as nf4 is a storage and the Linears it reaches.
nf4 and int8 are what bitsandbytes 0.50.2 keeps in memory: it converts Linear layers, never embeddings, head, norms or experts held
as 3-D parameters. awq, gptq and fp8 are 4-bit and 8-bit checkpoints of the language model, made with the group stated here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from onecard.catalog.shapes import Layout, LinearShape
from onecard.catalog.storages import Awq, Bnb4Bit, Bnb8Bit, Fp8, Gptq, Storage

Quantization = Literal["none", "int8", "nf4", "awq", "gptq", "fp8"]
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4", "awq", "gptq", "fp8")

# Weights along the input that share a scale and a zero, where a person asks for awq or gptq and says no more: the first of these that
# divides every input (Falcon's width of 4544 takes groups of 64), as whoever makes the checkpoint has to choose.
GROUPS = (128, 64, 32)


def fitting_group(shapes: Iterable[LinearShape]) -> int:
    """The group a 4-bit checkpoint of these Linears is made with; those too narrow to be packed (a gate of one output) do not count."""
    inputs = {shape.in_features for shape in shapes if shape.out_features % 8 == 0}
    return next((group for group in GROUPS if all(size % group == 0 for size in inputs)), GROUPS[0])


def asked_storage(
    quantization: Quantization, *, double_quantization: bool = True, group: int = GROUPS[0]
) -> Storage | None:
    """How a Linear is kept when a person asks for this form; None for 16 bits.

    fp8 is what vLLM makes of 16-bit weights while it loads them (Fp8LinearMethod): a byte a weight and one fp32 a Linear.
    """
    storages: dict[Quantization, Storage] = {
        "int8": Bnb8Bit(),
        "nf4": Bnb4Bit("nf4", double_quantization),
        "awq": Awq(group),
        "gptq": Gptq(4, group),
        "fp8": Fp8(),
    }
    return storages.get(quantization)


def reaches(quantization: Quantization, shape: LinearShape) -> bool:
    """Whether asking for this form converts this Linear of a 16-bit model.

    bitsandbytes takes every Linear that transformers gives it, towers and projectors too. Checkpoints in awq, gptq and fp8 convert
    the language model only, whatever class its Linears have.
    """
    if quantization in ("int8", "nf4"):
        return shape.quantized and shape.component not in ("lm_head", "experts")
    return quantization != "none" and shape.component in ("linear", "experts")


def nf4_bytes(weights: int, *, double_quantization: bool = True) -> int:
    """Bytes of one Linear4bit weight of so many parameters."""
    return Bnb4Bit("nf4", double_quantization).bytes_of(weights, 1)


def linear_bytes(
    shape: LinearShape,
    quantization: Quantization,
    *,
    double_quantization: bool = True,
    dtype_bytes: int = 2,
    group: int = GROUPS[0],
) -> int:
    """Bytes of all `shape.count` Linears in this form, biases included (they keep the model's dtype)."""
    storage = asked_storage(quantization, double_quantization=double_quantization, group=group)
    return stored_bytes(shape, storage if reaches(quantization, shape) else None, shape.count, dtype_bytes)


def stored_bytes(shape: LinearShape, storage: Storage | None, count: int, dtype_bytes: int = 2) -> int:
    """Bytes of `count` Linears of this shape with their biases; None, or a storage whose library cannot hold the shape, is 16 bits."""
    inputs, outputs = shape.in_features, shape.out_features
    if storage is None or not storage.holds(inputs, outputs):
        each = inputs * outputs * dtype_bytes
    else:
        each = storage.bytes_of(inputs, outputs, dtype_bytes)
    return (each + (outputs * dtype_bytes if shape.bias else 0)) * count


def component_bytes(
    layout: Layout,
    quantization: Quantization,
    *,
    double_quantization: bool = True,
    dtype_bytes: int = 2,
    group: int | None = None,
) -> dict[str, int]:
    """Bytes by component (biases with their Linears under "linear"); what is not a Linear keeps `dtype_bytes` a parameter.

    A layout does not say what its experts are made of, so here they stay in 16 bits; `planner.weights` knows the config and counts
    them as Linears where a form converts them.
    """
    sizes: dict[str, int] = {component: count * dtype_bytes for component, count in layout.rest.items() if count}
    group = group or fitting_group(shape for shape in layout.linears if reaches(quantization, shape))
    for shape in layout.linears:
        size = linear_bytes(
            shape, quantization, double_quantization=double_quantization, dtype_bytes=dtype_bytes, group=group
        )
        sizes[shape.component] = sizes.get(shape.component, 0) + size
    return sizes


def weight_bytes(
    layout: Layout,
    quantization: Quantization,
    *,
    double_quantization: bool = True,
    dtype_bytes: int = 2,
    group: int | None = None,
) -> int:
    """Bytes of all weights of a model held in this form: the sum of `component_bytes`."""
    return sum(
        component_bytes(
            layout, quantization, double_quantization=double_quantization, dtype_bytes=dtype_bytes, group=group
        ).values()
    )
