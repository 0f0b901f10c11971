"""What is known of the base that a vLLM serves, read from its files: what adapters must fit, and whether it is an export for one.

No weights are loaded: names and shapes of the checkpoint's linear layers come from the headers of its files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.errors import InputError
from onecard.weights.inventory import read_config, weight_files

RECORD, BASE, ADAPTER = "export.json", "base", "adapter"  # as `engines/local/vllm_export.py` writes them
HEADER_LIMIT_BYTES = 256 << 20
PACKED = ("qweight", "weight_packed")  # the names of a layer's weight in AWQ, GPTQ and compressed-tensors checkpoints


@dataclass(frozen=True)
class ExportedBase:
    """A base that `onecard adapters export --for vllm` wrote: it holds the rows of one adapter's added tokens."""

    address: str
    digest: str
    adapter: Path


def exported_base(folder: Path) -> ExportedBase | None:
    """The export whose base this folder is, if it is one; InputError for an export whose record cannot be read."""
    file = folder.parent / RECORD
    if folder.name != BASE or not file.is_file():
        return None
    try:
        record = json.loads(file.read_bytes())
        return ExportedBase(str(record["address"]), str(record["digest"]), folder.parent / ADAPTER)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(file), next_step="export the adapter again") from error


def linear_shapes(folder: Path) -> dict[str, tuple[int, int] | None]:
    """(inputs, outputs) of every layer of the checkpoint with a matrix; None where it is packed and its shape does not show."""
    found: dict[str, tuple[int, int] | None] = {}
    for file in weight_files(folder):
        for name, entry in _header(file).items():
            module, _, what = name.rpartition(".")
            shape: list[int] = list(entry.get("shape", ())) if isinstance(entry, dict) else []
            if what == "weight" and len(shape) == 2:
                found[module] = (shape[1], shape[0])
            elif what in PACKED:
                found[module] = None
    return found


def longest_context(folder: Path) -> int | None:
    """Tokens the base was built for, where its config says so."""
    config = read_config(folder)
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    said = (text or {}).get("max_position_embeddings")
    return said if isinstance(said, int) else None


def published_form(folder: Path) -> str:
    """How the checkpoint says it is quantized, in its own words; none where it does not."""
    said = read_config(folder).get("quantization_config")
    return str(said.get("quant_method", "quantized")) if isinstance(said, Mapping) else "none"


def write_base_tokenizer(folder: Path, target: Path, added: frozenset[str]) -> None:
    """The tokenizer files of an exported base without the added tokens of its adapter: what everybody else reads text with."""
    target.mkdir(parents=True)
    for file in folder.glob("*"):
        if file.name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (target / file.name).write_text(
                json.dumps(_without(json.loads(file.read_bytes()), added)), encoding="utf-8"
            )
        elif file.name == "chat_template.jinja":
            shutil.copyfile(file, target / file.name)


def _without(value: Any, added: frozenset[str]) -> Any:
    """JSON without the entries of some tokens: in lists their names and objects, in objects those whose content they are."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if not _is_of(part, added) and key not in added}
        return {key: _without(part, added) for key, part in kept.items()}
    if isinstance(value, list):
        return [_without(part, added) for part in value if not _is_of(part, added)]
    return value


def _is_of(part: Any, added: frozenset[str]) -> bool:
    named = part.get("content") if isinstance(part, dict) else part
    return isinstance(named, str) and named in added


def _header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file of a base; its weights were hashed before, so it is not read with suspicion."""
    with file.open("rb") as reader:
        length = int.from_bytes(reader.read(8), "little")
        if not 0 < length <= HEADER_LIMIT_BYTES:
            raise InputError("not a safetensors file", where=str(file), next_step="fetch the model again")
        try:
            header = json.loads(reader.read(length))
        except ValueError as error:
            raise InputError(f"its header cannot be read: {error}", where=str(file)) from error
    return header if isinstance(header, dict) else {}
