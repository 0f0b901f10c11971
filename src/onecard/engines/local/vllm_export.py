"""An adapter in the form vLLM takes: a pure LoRA, and for added tokens a base directory that has their trained rows in place.

vLLM refuses trained rows inside an adapter and drops added vocabulary; folded into embedding and head they are exact. The folder
appears whole, with the proof that it answers as the adapter does, or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors import safe_open

from onecard.adapters import durable
from onecard.adapters.manifest import Manifest
from onecard.adapters.safetensors_header import read_header
from onecard.adapters.verification import CONFIG, WEIGHTS, check_adapter, differences, read_adapter_config
from onecard.engines.local.checkpoint_rows import (
    Shards,
    TrainedRows,
    WrittenCheckpoint,
    bytes_to_write,
    copy_tensors,
    link,
    write_with_rows,
)
from onecard.engines.local.loading import quiet, read_config
from onecard.engines.local.vllm_proof import Proof, prove
from onecard.errors import AdapterRefused, InputError
from onecard.weights.inventory import fingerprint

BASE, ADAPTER, RECORD = "base", "adapter", "export.json"
RANKS = (
    8,
    16,
    32,
    64,
    128,
    256,
    320,
    512,
)  # values of vLLM's --max-lora-rank (vllm/config/lora.py, 0.32); 1 is left out
_PREFIX, _ROWS = "base_model.model.", ".token_adapter.trainable_tokens_delta"
_TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VllmExport:
    """What was written and what it needs. `base` is the folder to serve: the exported one, or the base itself."""

    address: str
    digest: str
    base: str
    adapter: str
    max_lora_rank: int
    quantization: str
    rewritten: tuple[str, ...]
    shared: tuple[str, ...]
    vocabulary: int | None
    proof: Proof | None


def smallest_rank_setting(manifest: Manifest, where: str) -> int:
    """The --max-lora-rank that vLLM needs for it; AdapterRefused for a rank it has no setting for."""
    fitting = [rank for rank in RANKS if rank >= manifest.rank]
    if not fitting:
        raise AdapterRefused(
            f"rank {manifest.rank} is over what vLLM serves",
            where=where,
            allowed=f"a rank up to {RANKS[-1]}",
            next_step="train it with a lower rank",
        )
    return fitting[0]


def export_for_vllm(
    folder: Path,
    manifest: Manifest,
    base: Path,
    target: Path,
    *,
    proven: bool = True,
    on_progress: Progress = lambda what, done, total: None,
) -> VllmExport:
    """Writes `target` with adapter/, export.json and, when it added tokens, base/.

    AdapterRefused when the files are not what was published, the base is another one, vLLM cannot serve it, or the export answers
    differently. InputError when the target exists or the base cannot hold the rows.
    """
    if target.exists() or target.is_symlink():
        raise InputError(
            "exists already", where=str(target),
            next_step="name a new folder; a base holds the added tokens of one adapter, so each has its own",
        )  # fmt: skip
    rank = smallest_rank_setting(manifest, str(folder))
    _check(folder, manifest, base)
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = trained_rows(folder, manifest, base)
    needed = bytes_to_write(base, rows) + (folder / WEIGHTS).stat().st_size + durable.SPARE_BYTES
    with durable.disk_errors(target, needed), TemporaryDirectory(dir=target.parent, prefix=".onecard-") as place:
        if (free := durable.free_bytes(target.parent)) < needed:
            raise durable.disk_full(target, needed, free)
        made = Path(place) / "export"
        (made / ADAPTER).mkdir(parents=True)
        written = _write_base(folder, manifest, base, made / BASE, rows, on_progress) if rows else None
        serve = made / BASE if rows else base
        _write_adapter(folder, made / ADAPTER, f"../{BASE}" if rows else manifest.base.id)
        proof = prove(folder, manifest, base, made / ADAPTER, serve, on_progress) if proven else None
        export = VllmExport(
            address=f"{manifest.agent}/{manifest.name}@{manifest.version}",
            digest=manifest.digest,
            base=BASE if rows else manifest.base.id,
            adapter=ADAPTER,
            max_lora_rank=rank,
            quantization=manifest.base.quantization,
            rewritten=written.rewritten if written else (),
            shared=written.shared if written else (),
            vocabulary=written.vocabulary if written else None,
            proof=proof,
        )
        (made / RECORD).write_text(json.dumps({"schema": 1, **asdict(export)}, indent=2) + "\n", encoding="utf-8")
        _flush(made)
        made.replace(target)
        durable.flush_folder(target.parent)
    return export


def _check(folder: Path, manifest: Manifest, base: Path) -> None:
    """The adapter is what was published, and this is its base."""
    if found := differences(folder, manifest):
        raise AdapterRefused(f"the files are not those that were published: {'; '.join(found)}", where=str(folder))
    check_adapter(folder, manifest)
    if (own := fingerprint(base)) != manifest.base.fingerprint:
        raise AdapterRefused(
            f"it was trained on {manifest.base.id} with the weight fingerprint {manifest.base.fingerprint[:12]}, "
            f"and {base} has {own[:12]}",
            where=str(folder),
            next_step="name the folder of the base it was trained on",
        )


def trained_rows(folder: Path, manifest: Manifest, base: Path) -> dict[str, TrainedRows]:
    """The rows by the name of the checkpoint's tensor they belong into; empty without added tokens.

    A head that is tied to the embedding has none of its own; where the checkpoint holds it nevertheless, it gets the embedding's.
    """
    if not manifest.added_tokens:
        return {}
    ids = tuple(added.row for added in manifest.added_tokens)
    with safe_open(folder / WEIGHTS, framework="pt") as tensors:
        found = {
            name.removeprefix(_PREFIX).removesuffix(_ROWS): TrainedRows(ids, tensors.get_tensor(name).float())
            for name in read_header(folder / WEIGHTS)
            if name.endswith(_ROWS)
        }
    embedding, head, tied = _vocabulary_layers(base)
    if set(found) != ({embedding} if tied else {embedding, head}):
        raise AdapterRefused(
            f"it has trained rows of {', '.join(sorted(found))}, and the base's are {embedding}"
            + (" with a tied head" if tied else f" and {head}"),
            where=str(folder),
        )
    shards = Shards.of(base)
    if shards.holds(f"{head}.bias"):
        raise InputError("this base's head has a bias, which has no value for an added token", where=str(base))
    rows = {}
    for module in (embedding, head):
        tensor = shards.find(module)
        if tensor is not None:
            rows[tensor.name] = found.get(module, found[embedding])
        elif not (tied and module == head):
            raise InputError(f"no weight of {module} in its files", where=str(base), next_step="fetch the model again")
    return rows


def _vocabulary_layers(base: Path) -> tuple[str, str, bool]:
    """(name of the embedding, name of the head, whether they are one), by the architecture, without its weights."""
    config = read_config(base)
    with quiet(), torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    names = {module: name for name, module in model.named_modules()}
    tied = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    return names[model.get_input_embeddings()], names[model.get_output_embeddings()], tied


def _write_base(
    folder: Path,
    manifest: Manifest,
    base: Path,
    target: Path,
    rows: Mapping[str, TrainedRows],
    on_progress: Progress,
) -> WrittenCheckpoint:
    """The base's folder with the rows in place, the adapter's tokenizer, and configs that say so."""
    target.mkdir()
    written = write_with_rows(base, target, rows, lambda done, total: on_progress("writing the base", done, total))
    config = json.loads((base / "config.json").read_bytes())
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "vocab_size" in part:
            part["vocab_size"] = written.vocabulary
    _write_json(target / "config.json", config)
    _write_generation_config(base, target, manifest)
    # Only the adapter's tokenizer: a tokenizer.model or vocab.json of the base beside it would not know the added tokens.
    for pattern in _TOKENIZER_FILES:
        for file in sorted(folder.glob(pattern)):
            shutil.copyfile(file, target / file.name)
    for pattern in _LICENCES:
        for file in sorted(base.glob(pattern)):
            link(file, target / file.name)
    return written


def _write_generation_config(base: Path, target: Path, manifest: Manifest) -> None:
    """The base's, with the stop ids the adapter was trained with; vLLM ends answers and sets sampling defaults by it."""
    file = base / "generation_config.json"
    settings = json.loads(file.read_bytes()) if file.is_file() else {}
    settings["eos_token_id"] = list(manifest.stop_ids) if len(manifest.stop_ids) > 1 else manifest.stop_ids[0]
    _write_json(target / file.name, {key: value for key, value in settings.items() if not key.startswith("_")})


def _write_adapter(folder: Path, target: Path, base: str) -> None:
    """The LoRA alone, without rows and tokenizer."""
    copy_tensors(folder / WEIGHTS, target / WEIGHTS, lambda name: not name.endswith(_ROWS))
    config = read_adapter_config(folder) | {"trainable_token_indices": None, "base_model_name_or_path": base}
    _write_json(target / CONFIG, config)


def _flush(folder: Path) -> None:
    """Waits until the files written here are on the disk, and their names; what is shared by a link was there before."""
    for place in (folder, *folder.rglob("*")):
        if place.is_dir():
            durable.flush_folder(place)
        elif not place.is_symlink() and place.stat().st_nlink == 1:
            with place.open("rb") as written:
                os.fsync(written.fileno())


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
