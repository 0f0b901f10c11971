"""What the weights of a model take, component by component, in the form they are really held in.

`none` means what the checkpoint already is, and layers that are no plain Linears stay in 16 bits whatever is asked.
"""

from __future__ import annotations

from onecard.catalog.quantization import component_bytes
from onecard.fleet.schema import ModelSpec
from onecard.planner.ledger import Line
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


def form_of(spec: ModelSpec, shape: ModelShape) -> Form:
    """The form the weights are really held in: `none` means what the checkpoint already is, and some layers cannot be quantized."""
    return held_form(spec.quantization, shape)


def held_form(asked: Form, shape: ModelShape) -> Form:
    """What becomes of a wish: transformers leaves layers that are not plain Linears (Falcon's) in 16 bits."""
    if asked == "none":
        return shape.published
    return "none" if asked in ("int8", "nf4") and not shape.quantizable else asked


def weight_lines(key: str, spec: ModelSpec, shape: ModelShape) -> list[Line]:
    """One line a component, as the libraries store them."""
    form = form_of(spec, shape)
    if spec.quantization == "none" and shape.published_bytes is not None:
        source = f"the published checkpoint is {form} already: its size on disk"
        return [Line(f"weights ({form})", key, shape.published_bytes, "measured", source, "weights")]
    if form == "mxfp4":
        return _mxfp4_lines(key, shape)
    sizes = component_bytes(shape.layout, form, double_quantization=spec.double_quantization)
    lines = []
    for component, size in sizes.items():
        part = PARTS.get(component, component)
        quantized = form != "none" and any(s.component == component and s.quantized for s in shape.layout.linears)
        if form in ("awq", "gptq", "fp8"):
            quantized = component == "linear"
        held = form_name(form, spec.double_quantization) if quantized else "16-bit"
        lines.append(Line(f"{part} ({held})", key, size, "exact", shape.source, "weights"))
    return lines


def form_name(form: Form, double_quantization: bool = True) -> str:
    """nf4 with double quantization is "nf4+DQ", 16 bits are "16-bit"."""
    if form == "none":
        return "16-bit"
    return "nf4+DQ" if form == "nf4" and double_quantization else form


def _mxfp4_lines(key: str, shape: ModelShape) -> list[Line]:
    """Experts in 4 bits with one byte of scale per 32, the rest in 16 bits."""
    counts = shape.layout.components
    experts = counts.get("experts", 0)
    rest = sum(counts.values()) - experts
    source = f"{shape.source}; mxfp4 holds 32 weights in 17 bytes"
    return [
        Line("experts (mxfp4)", key, experts * 17 // 32, "exact", source, "weights"),
        Line("everything else (16-bit)", key, rest * 2, "exact", shape.source, "weights"),
    ]
