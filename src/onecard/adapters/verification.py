"""Checks the files of an adapter folder before anybody loads them: only known files, only plain data, and an adapter that acts.

Runs without torch, on raw bytes. What needs the base model (its width, its layers, its fingerprint) is checked by the engine.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from onecard.adapters import tensor_values
from onecard.adapters.durable import file_digest
from onecard.adapters.manifest import Manifest
from onecard.adapters.safetensors_header import TensorEntry, read_header
from onecard.errors import AdapterRefused

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
CONFIG_LIMIT_BYTES = 1 << 20
_OTHERS = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "README.md", MANIFEST)
_ALLOWED = f"{CONFIG}, {WEIGHTS}, tokenizer*.json, {', '.join(_OTHERS)}"
_TOKENIZER = re.compile(r"tokenizer[A-Za-z0-9_.-]*\.json")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_TOKEN_ROWS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta")

# Keys of adapter_config.json that change the arithmetic in ways the manifest cannot say: a served adapter would not be itself.
_MUST_BE_OFF = (
    "use_dora", "use_rslora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern",
    "layer_replication", "target_parameters", "alora_invocation_tokens",
)  # fmt: skip


def check_adapter(folder: Path, manifest: Manifest) -> None:
    """Every check of this file: names, config against manifest, tensors. AdapterRefused with the reason."""
    check_files(folder)
    config = read_adapter_config(folder)
    check_config(config, manifest, str(folder / CONFIG))
    check_tensors(folder / WEIGHTS, manifest)


def check_files(folder: Path) -> dict[str, int]:
    """The files by name with their sizes in bytes; AdapterRefused for one that does not belong, or one that is missing."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise _refused("a link, which could point anywhere", path, "put the file itself there")
        if not stat.S_ISREG(mode):
            raise _refused("a folder or a special file", path, "an adapter is one flat folder", allowed=_ALLOWED)
        if path.suffix in _PICKLES:
            raise _refused(
                "a pickle, which can run code when it is read", path, "save with safetensors", allowed=_ALLOWED
            )
        if path.name not in (CONFIG, WEIGHTS, *_OTHERS) and not _TOKENIZER.fullmatch(path.name):
            raise _refused("not a file of an adapter", path, "leave it out of the folder", allowed=_ALLOWED)
        sizes[path.name] = path.lstat().st_size
    for needed in (CONFIG, WEIGHTS):
        if needed not in sizes:
            raise _refused(f"no {needed}", folder, "save the adapter with PEFT's save_pretrained")
    return sizes


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """PEFT's adapter_config.json as a dictionary; AdapterRefused when it is not one."""
    file = folder / CONFIG
    if file.stat().st_size > CONFIG_LIMIT_BYTES:
        raise _refused(f"{file.stat().st_size:,} bytes, over the limit of {CONFIG_LIMIT_BYTES:,}", file)
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _refused(f"not valid JSON ({error})", file) from None
    if not isinstance(config, dict):
        raise _refused("not a JSON object", file)
    return config


def check_config(config: Mapping[str, Any], manifest: Manifest, where: str) -> None:
    """PEFT's config must say LORA with the manifest's rank, alpha and targets, and nothing the manifest cannot say."""
    targets = config.get("target_modules")
    said = {
        "peft_type": (config.get("peft_type"), "LORA"),
        "r": (config.get("r"), manifest.rank),
        "lora_alpha": (config.get("lora_alpha"), manifest.alpha),
        "target_modules": (
            sorted(map(str, targets)) if isinstance(targets, list) else targets,
            sorted(manifest.targets),
        ),
        "bias": (config.get("bias", "none"), "none"),
    }
    for key, (value, expected) in said.items():
        if value != expected:
            raise AdapterRefused(f"{key} is {value!r}, expected {expected!r} as in the manifest", where=where)
    for key in _MUST_BE_OFF:
        if config.get(key):
            raise AdapterRefused(
                f"{key} is {config[key]!r}",
                where=where,
                allowed="plain LoRA with one rank and one alpha, and token rows",
            )


def check_tensors(file: Path, manifest: Manifest) -> None:
    """LoRA pairs for every target, shapes that fit the rank, finite numbers, and an effect; AdapterRefused otherwise."""
    pairs: dict[str, dict[str, TensorEntry]] = {}
    token_rows = []
    entries = read_header(file)
    for name, entry in entries.items():
        if entry.dtype not in tensor_values.WIDTHS:
            raise _refused(f"{name} is {entry.dtype}", file, allowed=", ".join(tensor_values.WIDTHS))
        if lora := _LORA.fullmatch(name):
            pairs.setdefault(lora["module"], {})[lora["side"]] = entry
        elif _TOKEN_ROWS.fullmatch(name):
            token_rows.append(entry)
        else:
            raise _refused(
                f"{name} is a tensor that nobody would load", file, allowed="lora_A, lora_B, added token rows"
            )
    _check_pairs(file, pairs, manifest)
    _check_token_rows(file, token_rows, manifest)
    for name, entry in entries.items():
        if not tensor_values.is_finite(file, entry):
            raise _refused(f"{name} holds infinities or NaN", file, "train again with a lower learning rate")
    for module, sides in pairs.items():
        if tensor_values.is_zero(file, sides["B"]):
            raise _refused(
                f"{module}.lora_B is all zero: this adapter has no effect there", file, "train it for longer"
            )


def _check_pairs(file: Path, pairs: Mapping[str, Mapping[str, TensorEntry]], manifest: Manifest) -> None:
    reached = set()
    for module, sides in pairs.items():
        if len(sides) != 2:
            raise _refused(f"{module} has a lora_{next(iter(sides))} without its other half", file)
        a, b = sides["A"].shape, sides["B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != manifest.rank or b[1] != manifest.rank or 0 in (*a, *b):
            raise _refused(f"{module} has A {list(a)} and B {list(b)}, which are not of rank {manifest.rank}", file)
        named = {target for target in manifest.targets if module == target or module.endswith("." + target)}
        if not named:
            raise _refused(f"{module} is none of the targets {', '.join(manifest.targets)}", file)
        reached |= named
    if missing := sorted(set(manifest.targets) - reached):
        raise _refused(f"no tensors for the target {', '.join(missing)}", file)


def _check_token_rows(file: Path, token_rows: list[TensorEntry], manifest: Manifest) -> None:
    count = len(manifest.added_tokens)
    if bool(token_rows) != bool(count):
        raise _refused(f"{count} added tokens in the manifest and {len(token_rows)} tensors of token rows", file)
    for entry in token_rows:
        if len(entry.shape) != 2 or entry.shape[0] != count:
            raise _refused(f"{entry.name} has the shape {list(entry.shape)} for {count} added tokens", file)


def digest_of(files: Mapping[str, str]) -> str:
    """A version's identity: sha256 over the sorted lines "file sha256", each ended by a line break."""
    return sha256("".join(f"{name} {digest}\n" for name, digest in sorted(files.items())).encode()).hexdigest()


def differences(folder: Path, manifest: Manifest) -> list[str]:
    """What in the folder is not as the manifest says, hashing every file; empty when all is as published."""
    there = {path.name for path in folder.iterdir()} - {MANIFEST}
    found = [f"{name}: not in the manifest" for name in sorted(there - set(manifest.files))]
    for name, expected in sorted(manifest.files.items()):
        file = folder / name
        if name not in there:
            found.append(f"{name}: missing")
        elif file.is_symlink() or not file.is_file():
            found.append(f"{name}: no longer a plain file")
        elif (actual := file_digest(file)) != expected:
            found.append(f"{name}: sha256 is {actual[:12]}, expected {expected[:12]}")
    if digest_of(manifest.files) != manifest.digest:
        found.append(f"{MANIFEST}: its digest is not that of its list of files")
    return found


def _refused(problem: str, path: Path, next_step: str | None = None, allowed: str | None = None) -> AdapterRefused:
    return AdapterRefused(problem, where=str(path), allowed=allowed, next_step=next_step)
