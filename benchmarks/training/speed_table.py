"""Measurements of `train_speed.py` as a table in Markdown, fastest first; what did not run stands below with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

KEPT = ("card", "python", "torch", "transformers", "peft", "trl", "bitsandbytes", "liger_kernel", "unsloth")
GOLDEN = "trl-golden"


def page(documents: Sequence[dict[str, Any]]) -> str:
    """Useful tokens/s: tokens of rows, prompts included and padding not. The ratio is to document E as TRL runs it, where that ran."""
    records = [record for document in documents for record in document["variants"]]
    ran = sorted(
        (record for record in records if "steady_tokens_s" in record), key=lambda record: -record["steady_tokens_s"]
    )
    golden = next((record["steady_tokens_s"] for record in ran if record["name"] == GOLDEN), None)
    lines = [_machine(document) for document in documents]
    lines += ["", "| variant | what | useful tokens/s | of golden | whole | peak GiB | reserved GiB | steps |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for record in ran:
        ratio = f"{record['steady_tokens_s'] / golden:.1f}x" if golden else ""
        lines.append(
            f"| {record['name']} | {record['about']} | {record['steady_tokens_s']:,.0f} | {ratio} | {record['whole_tokens_s']:,.0f} "
            f"| {_gib(record, 'peak_allocated_mib')} | {_gib(record, 'peak_reserved_mib')} | {record['steps']} |"
        )
    measured = {record["name"] for record in ran}
    missing = {record["name"]: record["outcome"] for record in records if record["name"] not in measured}
    if missing:
        lines += ["", "Not measured:", *(f"- {name}: {outcome}" for name, outcome in missing.items())]
    return "\n".join(lines) + "\n"


def _machine(document: dict[str, Any]) -> str:
    machine = document.get("machine", {})
    told = ", ".join(
        f"{name} {machine[name]}" if name != "card" else str(machine[name]) for name in KEPT if name in machine
    )
    size = document["size"]
    layers = "" if size["layers"] is None else f", {size['layers']} layers only"
    base = "a tiny base" if size["tiny"] else f"Mistral 7B's shape{layers}"
    return f"- {document['at'][:10]}: {base}, random weights, nf4 with double quantization. {told}."


def _gib(record: dict[str, Any], key: str) -> str:
    return f"{record[key] / 1024:.1f}" if key in record else ""
