"""Checks the files of an adapter folder before anybody loads them: only known files, only plain data, and an adapter that acts.

Runs without torch, on raw bytes. What needs the base model (its width, its layers, its fingerprint) is checked by the engine.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from onecard.adapters import tensor_values
from onecard.adapters.durable import file_digest
from onecard.adapters.manifest import Manifest
from onecard.adapters.safetensors_header import TensorEntry, read_header, shown
from onecard.adapters.verification_config import CONFIG, CONFIG_LIMIT_BYTES, check_config, read_adapter_config
from onecard.adapters.verification_tokenizer import check_tokenizer
from onecard.errors import AdapterRefused

__all__ = [
    "CONFIG", "CONFIG_LIMIT_BYTES", "MANIFEST", "WEIGHTS", "check_adapter", "check_config", "check_files", "check_tensors",
    "differences", "digest_of", "read_adapter_config",
]  # fmt: skip

WEIGHTS, MANIFEST = "adapter_model.safetensors", "manifest.json"
WIDTH_LIMIT = 1 << 22  # inputs of a layer; the widest known have some 10^5
_OTHERS = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "README.md", MANIFEST)
_ALLOWED = f"{CONFIG}, {WEIGHTS}, tokenizer*.json, {', '.join(_OTHERS)}"
_TOKENIZER = re.compile(r"tokenizer[A-Za-z0-9_.-]*\.json")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
_MODULE = r"base_model\.model\.(?P<module>\w+(\.\w+)*)"  # as PEFT names the base's modules
_LORA = re.compile(_MODULE + r"\.lora_(?P<side>[AB])\.weight", re.ASCII)
_TOKEN_ROWS = re.compile(_MODULE + r"\.token_adapter\.trainable_tokens_delta", re.ASCII)


def check_adapter(folder: Path, manifest: Manifest) -> None:
    """Every check of this file: names, config against manifest, tokenizer, tensors. AdapterRefused with the reason."""
    _check_plain_files(folder)
    config = read_adapter_config(folder)
    check_config(config, manifest, str(folder / CONFIG))
    check_tokenizer(folder, manifest)
    rows = config.get("trainable_token_indices")
    check_tensors(folder / WEIGHTS, manifest, tuple(rows) if isinstance(rows, dict) else ())


def check_files(folder: Path) -> dict[str, int]:
    """The files of a folder to publish, by name with their sizes in bytes; AdapterRefused for one that does not belong there.

    A second name (hard link) is refused here and not in `check_adapter`: while it is copied, somebody could change it by the other
    name; in the store it is a digest that counts, and people back up stores with hard links.
    """
    sizes = _check_plain_files(folder)
    for name in sizes:
        if (folder / name).lstat().st_nlink > 1:
            raise _refused("has a second name (a hard link), by which it can change", folder / name, "copy the file")
    return sizes


def _check_plain_files(folder: Path) -> dict[str, int]:
    """Only known names, only plain files, and both files that make an adapter."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise _refused("a link, which could point anywhere", path, "put the file itself there")
        if not stat.S_ISREG(mode):
            raise _refused("a folder or a special file", path, "an adapter is one flat folder", allowed=_ALLOWED)
        if path.suffix.lower() in _PICKLES:
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


def check_tensors(file: Path, manifest: Manifest, row_layers: tuple[str, ...] = ()) -> None:
    """LoRA pairs for every target, shapes that fit the rank, finite numbers, and an effect; AdapterRefused otherwise.

    `row_layers` are the names of the layers whose rows the config says were trained.
    """
    pairs: dict[str, dict[str, TensorEntry]] = {}
    token_rows: dict[str, TensorEntry] = {}
    entries = read_header(file)
    for name, entry in entries.items():
        if entry.dtype not in tensor_values.WIDTHS:
            raise _refused(f"{shown(name)} is {entry.dtype}", file, allowed=", ".join(tensor_values.WIDTHS))
        if lora := _LORA.fullmatch(name):
            pairs.setdefault(lora["module"], {})[lora["side"]] = entry
        elif rows := _TOKEN_ROWS.fullmatch(name):
            token_rows[rows["module"]] = entry
        else:
            raise _refused(
                f"{shown(name)} is a tensor that nobody would load", file, allowed="lora_A, lora_B, added token rows"
            )
    _check_pairs(file, pairs, manifest)
    _check_token_rows(file, token_rows, manifest, row_layers)
    for name, entry in entries.items():
        if not tensor_values.is_finite(file, entry):
            raise _refused(f"{shown(name)} holds infinities or NaN", file, "train again with a lower learning rate")
    _check_effect(file, pairs)


def _check_effect(file: Path, pairs: Mapping[str, Mapping[str, TensorEntry]]) -> None:
    """Every pair has numbers on both sides, and in at least one of them B @ A is not zero."""
    for module, sides in pairs.items():
        for side in "BA":
            if tensor_values.is_zero(file, sides[side]):
                raise _refused(
                    f"{module}.lora_{side} is all zero: this adapter has no effect there", file, "train it for longer"
                )
    if not any(tensor_values.product_acts(file, sides["B"], sides["A"]) for sides in pairs.values()):
        raise _refused("B @ A is zero in every layer: this adapter has no effect", file, "train it again")


def _check_pairs(file: Path, pairs: Mapping[str, Mapping[str, TensorEntry]], manifest: Manifest) -> None:
    reached = set()
    for module, sides in pairs.items():
        if len(sides) != 2:
            raise _refused(f"{module} has a lora_{next(iter(sides))} without its other half", file)
        a, b = sides["A"].shape, sides["B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != manifest.rank or b[1] != manifest.rank or 0 in (*a, *b):
            raise _refused(f"{module} has A {list(a)} and B {list(b)}, which are not of rank {manifest.rank}", file)
        if a[1] > WIDTH_LIMIT:
            raise _refused(f"{module} has {a[1]:,} inputs, over the limit of {WIDTH_LIMIT:,}", file)
        named = {target for target in manifest.targets if module == target or module.endswith("." + target)}
        if not named:
            raise _refused(f"{module} is none of the targets {', '.join(manifest.targets)}", file)
        reached |= named
    if missing := sorted(set(manifest.targets) - reached):
        raise _refused(f"no tensors for the target {', '.join(missing)}", file)


def _check_token_rows(
    file: Path, token_rows: Mapping[str, TensorEntry], manifest: Manifest, layers: tuple[str, ...]
) -> None:
    count = len(manifest.added_tokens)
    if bool(token_rows) != bool(count):
        raise _refused(f"{count} added tokens in the manifest and {len(token_rows)} tensors of token rows", file)
    if count and {module.rpartition(".")[2] for module in token_rows} != set(layers):
        raise _refused(
            f"token rows of {', '.join(sorted(token_rows))}, and the config says {shown(', '.join(layers)) or 'none'}",
            file,
        )
    for module, entry in token_rows.items():
        if len(entry.shape) != 2 or entry.shape[0] != count:
            raise _refused(f"{module} has rows of the shape {list(entry.shape)} for {count} added tokens", file)


def digest_of(files: Mapping[str, str]) -> str:
    """A version's identity: sha256 over the sorted lines "file sha256", each ended by a line break."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return sha256(lines.encode(errors="surrogateescape")).hexdigest()  # a name on the disk need not be UTF-8


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
    return AdapterRefused(problem, where=shown(str(path), 400), allowed=allowed, next_step=next_step)
