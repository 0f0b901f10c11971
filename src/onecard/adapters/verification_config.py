"""Checks PEFT's adapter_config.json: plain LoRA with the manifest's rank, alpha, targets and token rows, and nothing else.

PEFT reads some forty keys, and later releases more. A key that would change the arithmetic or name code to import must be off; a
key nobody here knows must be off too, because what it does cannot stand in the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from onecard.adapters.manifest import Manifest
from onecard.errors import AdapterRefused

CONFIG = "adapter_config.json"
CONFIG_LIMIT_BYTES = 1 << 20
RANK_LIMIT = 4096  # over the width of a layer a rank has no meaning

# Checked one by one below, against the manifest or against a list.
_CHECKED = {
    "peft_type", "r", "lora_alpha", "target_modules", "bias", "task_type", "init_lora_weights", "trainable_token_indices",
    "auto_mapping", "megatron_core",
}  # fmt: skip
# Without meaning once an adapter is trained: who wrote it, from where, how it was regularised, how the base's layer is stored.
_INERT = {
    "peft_version", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "fan_in_fan_out", "qalora_group_size",
}  # fmt: skip
_LIBRARY = re.compile(
    r"transformers\.models(\.[a-z0-9_]+){1,3}"
)  # what PEFT itself writes for a config without task_type
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """PEFT's adapter_config.json as a dictionary; AdapterRefused when it is not one."""
    return read_object(folder / CONFIG, CONFIG_LIMIT_BYTES)


def read_object(file: Path, limit_bytes: int) -> dict[str, Any]:
    """A JSON object of at most that many bytes in which no key is given twice: readers differ in which one counts."""
    if file.stat().st_size > limit_bytes:
        raise AdapterRefused(f"{file.stat().st_size:,} bytes, over the limit of {limit_bytes:,}", where=str(file))
    try:
        value = json.loads(file.read_bytes(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(f"not valid JSON ({str(error)[:200]})", where=str(file)) from None
    if not isinstance(value, dict):
        raise AdapterRefused("not a JSON object", where=str(file))
    return value


def check_config(config: Mapping[str, Any], manifest: Manifest, where: str) -> None:
    """PEFT's config must say LORA with the manifest's rank, alpha and targets, and nothing the manifest cannot say."""
    targets = config.get("target_modules")
    for key, value, expected in (
        ("peft_type", config.get("peft_type"), "LORA"),
        ("r", config.get("r"), manifest.rank),
        ("lora_alpha", config.get("lora_alpha"), manifest.alpha),
        ("target_modules", _sorted(targets), sorted(manifest.targets)),
        ("bias", config.get("bias", "none"), "none"),
    ):
        if value != expected or isinstance(value, bool):
            raise AdapterRefused(
                f"{key} is {_short(value)}, expected {_short(expected)} as in the manifest", where=where
            )
    if not 1 <= manifest.rank <= RANK_LIMIT or not isfinite(manifest.alpha) or manifest.alpha == 0:
        raise AdapterRefused(
            f"rank {manifest.rank} and alpha {manifest.alpha:g} are none of an adapter that acts",
            where=where,
            allowed=f"a rank from 1 to {RANK_LIMIT} and an alpha that is not zero",
        )
    _check_modes(config, where)
    _check_rows(config.get("trainable_token_indices"), manifest, where)


def _check_modes(config: Mapping[str, Any], where: str) -> None:
    """Everything in the config that has nothing to do with the manifest."""
    allowed: dict[str, tuple[Any, ...]] = {
        "task_type": (None, "CAUSAL_LM"),
        "init_lora_weights": (None, True, False, "gaussian"),
        "megatron_core": (None, "megatron.core"),
    }
    for key, values in allowed.items():
        if not any(
            config.get(key) is value or (isinstance(value, str) and config.get(key) == value) for value in values
        ):
            why = " may alter the base" if key == "init_lora_weights" else ""
            raise AdapterRefused(
                f"{key} is {_short(config[key])}{why and ', which' + why}",
                where=where,
                allowed=", ".join(map(str, values)),
                next_step="train it with a plain initialisation" if why else None,
            )
    if (mapping := config.get("auto_mapping")) and not _is_known_library(mapping):
        raise AdapterRefused(
            f"auto_mapping is {_short(mapping)}, which names code to import",
            where=where,
            allowed="none, or a class of transformers.models",
        )
    for key, value in config.items():
        if key not in _CHECKED and key not in _INERT and value:
            raise AdapterRefused(
                f"{_short(key)[1:-1]} is {_short(value)}",
                where=where,
                allowed="plain LoRA with one rank and one alpha, and token rows",
                next_step="train it without, or leave the key out if it does nothing",
            )


def _check_rows(said: Any, manifest: Manifest, where: str) -> None:
    """trainable_token_indices must be the manifest's rows, by layer, or absent."""
    rows = [added.row for added in manifest.added_tokens]
    if not rows and not said:
        return
    if not rows or not isinstance(said, dict) or not said:
        raise AdapterRefused(
            f"trainable_token_indices is {_short(said)}, and the manifest's added tokens have the rows {_short(rows)}",
            where=where,
        )
    for layer, value in said.items():
        if value != rows:
            raise AdapterRefused(
                f"trainable_token_indices does not say that {_short(layer)[1:-1]} has the manifest's rows {_short(rows)}",
                where=where,
            )


def _is_known_library(mapping: Any) -> bool:
    if not isinstance(mapping, dict) or set(mapping) != {"base_model_class", "parent_library"}:
        return False
    named, library = str(mapping["base_model_class"]), str(mapping["parent_library"])
    return _CLASS.fullmatch(named) is not None and _LIBRARY.fullmatch(library) is not None


def _sorted(targets: Any) -> Any:
    """A list of names in order, so that two lists compare as sets; anything else as it stands."""
    return sorted(targets) if isinstance(targets, list) and all(isinstance(t, str) for t in targets) else targets


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _short(value: Any) -> str:
    """A value in ASCII, cut to a line: what is hostile may be long or break a terminal."""
    text = ascii(value)
    return text if len(text) <= 100 else text[:97] + "..."
