"""A LoRA that was trained elsewhere, in PEFT's own two files, made ready for the store: checked against its base, with a manifest.

What only its training would know is left out, and `origin` says so. Nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard.adapters.manifest import AddedToken, BaseModelRecord, Manifest, OriginRecord
from onecard.adapters.safetensors_header import read_header, shown
from onecard.adapters.verification import CONFIG, WEIGHTS, check_adapter, check_files, read_adapter_config
from onecard.adapters.verification_tokenizer import TOKENIZER
from onecard.errors import AdapterRefused

UNKNOWN_FIELDS = ("recipe", "data_sha256", "training")
# Not known either, but taken from the base that the person named: what it was trained with may have been another.
ASSUMED_FIELDS = ("base.fingerprint", "base.quantization", "base.dtype", "chat_template_sha256", "stop_ids")
_PREFIX = "base_model.model."


def manifest_of(
    folder: Path,
    agent: str,
    name: str,
    base: BaseModelRecord,
    chat_template_sha256: str,
    stop_ids: tuple[int, ...],
    origin: str,
) -> Manifest:
    """The manifest of a plain PEFT folder; AdapterRefused when it is no plain LoRA. `origin` is where it came from, in words."""
    check_files(folder)
    config = read_adapter_config(folder)
    where = str(folder / CONFIG)
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if type(rank) is not int or not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise AdapterRefused(f"r is {shown(rank)} and lora_alpha is {shown(alpha)}, which are no numbers", where=where)
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise AdapterRefused(
            f"target_modules is {shown(targets)}",
            where=where,
            allowed="a list of the modules' names",
            next_step="write the names of the modules in place of the pattern",
        )
    manifest = Manifest(
        agent=agent,
        name=name,
        base=base,
        rank=rank,
        alpha=float(alpha),
        targets=tuple(sorted(targets)),
        added_tokens=_added_tokens(folder, config),
        chat_template_sha256=chat_template_sha256,
        stop_ids=stop_ids,
        recipe={},
        origin=OriginRecord(address=origin, trained_here=False, unknown=UNKNOWN_FIELDS, assumed=ASSUMED_FIELDS),
    )
    check_adapter(folder, manifest)
    return manifest


def check_against_layers(folder: Path, manifest: Manifest, layers: Mapping[str, tuple[int, ...]]) -> None:
    """Every target's layer has its pair, of its size. `layers` maps the base's weights, "....q_proj.weight", to their shapes.

    AdapterRefused otherwise. Linear layers are stored [outputs, inputs].
    """
    where = str(folder / WEIGHTS)
    entries = read_header(folder / WEIGHTS)
    matrices = {name.removesuffix(".weight"): shape for name, shape in layers.items() if len(shape) == 2}
    wanted = {
        module
        for module in matrices
        for target in manifest.targets
        if module == target or module.endswith(f".{target}")
    }
    if not wanted:
        raise AdapterRefused(
            f"the base has no layers {', '.join(manifest.targets)} in 16 or 32 bits",
            where=where,
            next_step="name the base it was trained on, not a quantized copy of it",
        )
    given = {name.removeprefix(_PREFIX).partition(".lora_")[0] for name in entries if ".lora_" in name}
    if missing := sorted(wanted - given):
        raise AdapterRefused(f"no tensors for {missing[0]}, which its config targets", where=where)
    if strange := sorted(given - wanted):
        raise AdapterRefused(f"tensors for {strange[0]}, which the base does not have", where=where)
    for module in sorted(wanted):
        a, b = (entries[f"{_PREFIX}{module}.lora_{side}.weight"].shape for side in "AB")
        if (b[0], a[1]) != tuple(matrices[module]):
            raise AdapterRefused(
                f"{module} has A {list(a)} and B {list(b)}, and the base's layer is {list(matrices[module])}",
                where=where,
            )


def _added_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    """The tokens whose rows were trained, with their names from the folder's tokenizer."""
    said = config.get("trainable_token_indices")
    if not said:
        return ()
    rows = next(iter(said.values())) if isinstance(said, dict) else said
    file = folder / TOKENIZER
    try:
        listed = json.loads(file.read_bytes()).get("added_tokens", []) if file.is_file() else []
        names = {entry["id"]: entry["content"] for entry in listed}
        return tuple(AddedToken(token=names[row], row=row) for row in rows)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise AdapterRefused(
            f"it has trained rows {shown(rows)}, and no {TOKENIZER} beside it names these tokens", where=str(folder)
        ) from None
