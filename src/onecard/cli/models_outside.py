"""What is known of a model outside the catalog, in words and as data: by its config, its headers and the hub's record of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onecard.catalog.licences import load_licences
from onecard.catalog.quantization import Quantization, weight_bytes
from onecard.catalog.units import format_bytes, format_count
from onecard.cli.facts_output import Fact

if TYPE_CHECKING:
    from onecard.catalog.shapes import KvShape
    from onecard.cli.model_shapes import Found
    from onecard.planner.shapes import ModelShape
    from onecard.weights.hub import About

CONFIG = "its config.json"
HEADERS = "exact, from the headers of its safetensors files"
RECORD = "the hub's record of the repository"
FORMS: tuple[Quantization, ...] = ("none", "int8", "nf4")


def facts_of(found: Found, told: About | None) -> list[Fact]:
    """What, the fact in words, its source; in the order a reader decides by."""
    shape, config = found.shape, found.config
    facts: list[Fact] = [("read", found.place, None), *_told(told)]
    facts.append(("architecture", _architecture(config), CONFIG))
    counts = ", ".join(f"{part} {count:,}" for part, count in shape.layout.components.items())
    facts.append(("parameters", f"{shape.layout.parameters:,}: {counts}", f"{shape.source} (catalog.architecture)"))
    if found.headers is not None:
        held = ", ".join(f"{dtype} {format_bytes(size)}" for dtype, size in found.headers.bytes_by_dtype.items())
        files = f"{found.headers.files} file{'s' if found.headers.files != 1 else ''}"
        total = f"{format_bytes(found.headers.total_bytes)} in {found.headers.tensors:,} tensors of {files}: {held}"
        same = not found.headers.packed and found.headers.parameters == shape.layout.parameters
        facts.append(
            ("checkpoint", total + ("; the parameters its config counts, to the last" if same else ""), HEADERS)
        )
    facts += [("note", note, None) for note in shape.notes]
    facts += [
        ("in memory", _forms(shape), f"computed from {CONFIG} (catalog.quantization)"),
        ("context", f"{shape.max_context:,} tokens" if shape.max_context else "its config does not say", CONFIG),
        ("KV cache", _cache(shape.kv), f"computed from {CONFIG}, 16 bits"),
        ("LoRA targets", ", ".join(shape.lora_targets), f"the Linears of {CONFIG}"),
    ]
    if shape.published_bytes is not None:
        held = f"{shape.published}: {format_bytes(shape.published_bytes)}"
        facts.insert(-4, ("as published", held, shape.published_source))
    return facts


def record_of(found: Found, told: About | None) -> dict[str, Any]:
    """The same for scripts. Sizes in bytes."""
    shape, headers = found.shape, found.headers
    return {
        "id": shape.id,
        "in_catalog": False,
        "read": found.place,
        "commit": found.commit,
        "licence": told.licence if told else None,
        "gated": told.gated if told else None,
        "base_model": told.base_model if told else None,
        "parameters": shape.layout.parameters,
        "components": shape.layout.components,
        "checkpoint": None
        if headers is None
        else {
            "files": headers.files,
            "tensors": headers.tensors,
            "parameters": None if headers.packed else headers.parameters,
            "bytes": headers.total_bytes,
            "bytes_by_dtype": dict(headers.bytes_by_dtype),
        },
        "published": shape.published,
        "published_bytes": shape.published_bytes,
        "weights_bytes": {form: weight_bytes(shape.layout, form) for form in FORMS},
        "kv_bytes_per_token": {
            "full": shape.kv.full_bytes_per_token(),
            "sliding": shape.kv.sliding_bytes_per_token(),
        },
        "kv_fixed_bytes": shape.kv.fixed_state_bytes,
        "max_context": shape.max_context,
        "lora_targets": list(shape.lora_targets),
        "notes": list(shape.notes),
        "config": dict(found.config),
    }


def _told(told: About | None) -> list[Fact]:
    if told is None:
        return [("licence", "not known: the hub's record was not read", None)]
    facts: list[Fact] = [("licence", _licence(told.licence), RECORD)]
    facts.append(("access", {True: "gated", False: "not gated", None: "not known"}[told.gated], RECORD))
    if told.base_model:
        facts.append(("made from", told.base_model, RECORD))
    if told.modified:
        facts.append(("modified", told.modified[:10], RECORD))
    return facts


def _licence(said: str | None) -> str:
    """What its owner wrote, and what the catalog knows of a licence of that name."""
    if said is None:
        return "its owner names none, which allows nothing"
    known = next((licence for licence in load_licences() if licence.key == said.lower()), None)
    if known is None:
        return f"{said}, as its owner wrote it; the catalog does not know it"
    return (
        f"{known.name}, as its owner wrote it; {'fully open' if known.fully_open else 'not fully open'}: {known.reason}"
    )


def _architecture(config: Mapping[str, Any]) -> str:
    classes = config.get("architectures")
    named = f" ({', '.join(map(str, classes))})" if isinstance(classes, list) and classes else ""
    own = "; brings code of its own, which is never run here" if "auto_map" in config else ""
    return f"{config.get('model_type')}{named}{own}"


def _forms(shape: ModelShape) -> str:
    names = {"none": "16 bit"}
    sizes = ", ".join(f"{names.get(form, form)} {format_bytes(weight_bytes(shape.layout, form))}" for form in FORMS)
    return sizes if shape.published == "none" else f"unpacked to 16 bits first: {sizes}"


def _cache(kv: KvShape) -> str:
    parts = []
    if kv.layers_full:
        each = format_bytes(round(kv.full_bytes_per_token()))
        latent = " (multi-head latent attention)" if kv.latent_width else ""
        parts.append(f"{kv.layers_full} layers keep {each} a token{latent}")
    if kv.layers_sliding:
        each = format_bytes(round(kv.sliding_bytes_per_token()))
        parts.append(
            f"{kv.layers_sliding} sliding layers keep {each} a token, at most {format_count(kv.window)} tokens"
        )
    if kv.fixed_state_bytes:
        parts.append(f"{format_bytes(kv.fixed_state_bytes)} of state per sequence whatever its length")
    if kv.vllm is not None:
        parts.append(f"in vLLM {format_bytes(round(kv.vllm.bytes_per_token()))} a token")
    return "; ".join(parts) or "nothing"
