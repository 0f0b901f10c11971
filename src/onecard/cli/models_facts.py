"""Every fact of a model of the catalog in words, each with its source, in the order a reader decides by."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onecard.cli.facts_output import Fact

if TYPE_CHECKING:
    from onecard.catalog.models import Model


def facts_of(model: Model) -> list[Fact]:
    """What, the fact in words, its source; in the order a reader decides by."""
    from onecard.catalog.models import common_sources

    common = common_sources()
    judged, counted = common["roles and why"], common["counted and cache"]
    architecture = model.sources.get("architecture")
    facts: list[Fact] = [("why", model.why, judged)]
    for role in model.roles:
        form = f" as {role.quantization}" if role.quantization else ""
        facts.append((f"role {role.name}", f"{role.reason or model.why}{form}", None))
    facts += [
        (
            "kind",
            f"{model.kind}{f' ({model.kind_note})' if model.kind_note else ''}, input {'+'.join(model.input)}",
            architecture,
        ),
        ("licence", _licence(model), model.licence.source),
        ("access", {True: "gated", False: "not gated", None: "not known"}[model.access.gated], model.access.source),
        (
            "released",
            model.released.date + (f" ({model.released.note})" if model.released.note else ""),
            model.released.source,
        ),
        ("parameters", f"{model.parameters:,}: " + ", ".join(f"{k} {v:,}" for k, v in model.counted.items()), counted),
        ("published", _count(model.published.count, model.published.text), model.published.source),
        ("check", _check(model), model.check.source),
        ("context", _context(model), architecture),
        ("KV cache", _cache(model), counted),
        ("in memory", _forms(model), "computed from the config (catalog.quantization)"),
        ("on disk", _disk(model), model.disk.source),
        ("LoRA targets", ", ".join(model.lora_targets), common["lora_targets"]),
    ]
    if model.image:
        tokens = f", {model.image.tokens} tokens an image" if model.image.tokens else ""
        facts.append(
            (
                "images",
                model.image.encoder + tokens + (f"; {model.image.note}" if model.image.note else ""),
                architecture,
            )
        )
    for ready in model.prequantized:
        seen = "" if ready.verified else " (id not verified)"
        gb = f", {ready.size_gb} GB" if ready.size_gb else ""
        facts.append((f"ready {ready.form}", f"{ready.id}{gb}{seen}", None))
    facts += [("note", note, None) for note in model.notes]
    facts += [(name, "", source) for name, source in model.sources.items() if name != "architecture"]
    facts.append(("config", json.dumps(model.config), architecture))
    return facts


def _licence(model: Model) -> str:
    from onecard.catalog.licences import find_licence

    licence = model.licence
    verdict = "fully open" if licence.fully_open else "not fully open"
    return f"{licence.note or find_licence(licence.key).name}; {verdict}: {licence.reason}"


def _count(count: int | None, text: str | None) -> str:
    return f"{count:,}" if count is not None else str(text)


def _check(model: Model) -> str:
    check = model.check
    away = f", {check.difference:+,} from the count" if check.difference else ""
    note = f"; {check.note}" if check.note else ""
    return f"{check.status}: published {_count(check.published, check.text)}{away}{note}"


def _context(model: Model) -> str:
    trained = f", trained for {model.native_context:,}" if model.native_context else ""
    return f"{model.max_context:,} tokens{trained}{f' ({model.context_note})' if model.context_note else ''}"


def _cache(model: Model) -> str:
    from onecard.catalog.units import format_bytes

    cache, parts = model.cache, []
    if cache.full_layers:
        parts.append(f"{cache.full_layers} layers keep {format_bytes(cache.full_bytes_per_token)} a token")
    if cache.sliding_layers:
        parts.append(
            f"{cache.sliding_layers} sliding layers keep {format_bytes(cache.sliding_bytes_per_token)} a token, "
            f"at most {cache.window_tokens:,} tokens ({format_bytes(cache.sliding_cap_bytes)})"
        )
    if cache.fixed_state_bytes:
        parts.append(f"{format_bytes(cache.fixed_state_bytes)} of state per sequence whatever its length")
    return "; ".join(parts) + (f"; {cache.note}" if cache.note else "")


def _forms(model: Model) -> str:
    from onecard.catalog.fit import forms_of, need
    from onecard.catalog.units import format_bytes

    names = {"none": "16 bit", "published": f"as published ({model.dtype})"}
    return ", ".join(f"{names.get(f, f)} {format_bytes(need(model, f).weights_bytes)}" for f in forms_of(model))


def _disk(model: Model) -> str:
    caution = f"; {model.disk.caution}" if model.disk.caution else ""
    return f"{model.disk.size_gb} GB, {model.disk.dtype}{caution}"
