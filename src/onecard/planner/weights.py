"""What the weights of a model take, component by component, in the form they are really held in.

`none` means what the checkpoint already is, and layers that are no plain Linears stay in 16 bits whatever is asked. Every line is
counted from the config, the checkpoint's own lists of what it leaves out among it.
"""

from __future__ import annotations

from functools import lru_cache

from onecard.catalog.held import Part, asked_parts, checkpoint_parts
from onecard.catalog.quantization import QUANTIZATIONS, Quantization
from onecard.fleet.schema import ModelSpec
from onecard.planner.ledger import Line, Tag
from onecard.planner.shapes import Form, ModelShape

PARTS = {
    "linear": "linear layers",
    "lm_head": "head",
    "vision_tower": "vision tower",
    "audio_tower": "audio tower",
    "other_embeddings": "other embeddings",
    "qformer": "Q-Former",
    "router": "routers",
    "conv": "convolutions",
}

# Forms that only vLLM holds as they are: the local engine loads 16 bits and what bitsandbytes makes.
VLLM_FORMS: frozenset[Form] = frozenset(("awq", "gptq", "fp8", "mxfp4", "nvfp4", "int4", "w8"))


def form_of(spec: ModelSpec, shape: ModelShape) -> Form:
    """The form the weights are really held in: `none` means what the checkpoint already is, and some layers cannot be quantized."""
    return held_form(spec.quantization, shape)


def held_form(asked: Form, shape: ModelShape) -> Form:
    """What becomes of a wish: transformers leaves layers that are not plain Linears (Falcon's) in 16 bits."""
    if asked == "none":
        return shape.published
    return "none" if asked in ("int8", "nf4") and not shape.quantizable else asked


def as_published(asked: Form, shape: ModelShape) -> bool:
    """Whether the weights are held as the checkpoint has them: nothing else is asked for, and it is quantized."""
    return shape.published != "none" and asked in ("none", shape.published)


@lru_cache(maxsize=1024)
def held_parts(
    shape: ModelShape, asked: Form, double_quantization: bool = True, dtype_bytes: int = 2
) -> tuple[Part, ...]:
    """The weights by component and form. A checkpoint that is quantized already keeps its own groups, scales and exceptions.

    CatalogError when the config does not say enough to count them.
    """
    if as_published(asked, shape):
        return checkpoint_parts(shape.config, shape.layout, shape.checkpoint, dtype_bytes)
    return asked_parts(
        shape.config,
        shape.layout,
        _quantization(held_form(asked, shape)),
        double_quantization=double_quantization,
        dtype_bytes=dtype_bytes,
    )


def held_bytes(
    shape: ModelShape, asked: Form, double_quantization: bool = True, dtype_bytes: int = 2
) -> dict[str, int]:
    """Bytes by component, all forms of one together."""
    sizes: dict[str, int] = {}
    for part in held_parts(shape, asked, double_quantization, dtype_bytes):
        sizes[part.component] = sizes.get(part.component, 0) + part.bytes
    return sizes


def weight_lines(key: str, spec: ModelSpec, shape: ModelShape) -> list[Line]:
    """One line a component and form, as the libraries store them."""
    return list(_weight_lines(key, spec.quantization, spec.double_quantization, shape))


@lru_cache(maxsize=1024)
def _weight_lines(key: str, asked: Quantization, double_quantization: bool, shape: ModelShape) -> tuple[Line, ...]:
    if asked in ("none", shape.published) and shape.published_bytes is not None:
        form = form_name(shape.published)
        source = shape.published_source or f"the published checkpoint is {form} already: its size on disk"
        tag: Tag = "exact" if shape.published_source else "measured"
        return (Line(f"weights ({form})", key, shape.published_bytes, tag, source, "weights"),)
    own = as_published(asked, shape)
    return tuple(
        Line(f"{PARTS.get(part.component, part.component)} ({part.held})", key, part.bytes, "exact", source, "weights")
        for part in held_parts(shape, asked, double_quantization)
        for source in [_source(part, shape, own)]
    )


def _source(part: Part, shape: ModelShape, own: bool) -> str:
    if part.storage is None:
        return shape.source
    return f"{shape.source}{', which is quantized' if own else ''}: {part.storage.tensors}"


def form_name(form: Form, double_quantization: bool = True) -> str:
    """nf4 with double quantization is "nf4+DQ", 16 bits are "16-bit", integers of compressed-tensors go by their width."""
    names: dict[Form, str] = {"none": "16-bit", "int4": "4-bit integers", "w8": "8-bit integers"}
    return "nf4+DQ" if form == "nf4" and double_quantization else names.get(form, form)


def _quantization(form: Form) -> Quantization:
    """A form a person can ask for. Anything else is held by a checkpoint only."""
    return next(known for known in QUANTIZATIONS if known == form)
