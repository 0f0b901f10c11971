"""From a model's id to a folder on this disk: the embedded base, a local folder, or a whole snapshot in the Hugging Face cache.

Nothing is downloaded and no hub library is imported; a model that is not here is an error that says how to get it.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from onecard.errors import InputError, MissingPart, UnknownName, nearest
from onecard.weights.hashes import Progress, content_digests
from onecard.weights.places import hub_cache

EMBEDDED_PREFIX = "embedded:"
_EMBEDDED = Path(__file__).parent / "embedded"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
# Keys that differ between copies of one model: who saved it, with which release, how it is loaded by default.
_INCIDENTAL = {"_name_or_path", "transformers_version", "use_cache", "torch_dtype", "dtype", "_attn_implementation"}
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def resolve(model_id: str, folder: Path) -> Path:
    """The folder with a model's config.json and weights.

    `model_id` is "embedded:mini", a path (absolute, `~`, or relative to `folder`), or a hub id such as org/name. UnknownName for an
    embedded model or a path that does not exist, MissingPart for a hub model that is not, or not wholly, on this disk.
    """
    if model_id.startswith(EMBEDDED_PREFIX):
        return _embedded(model_id)
    if local := _local(model_id, folder):
        if local.is_dir():
            return local.resolve()
        raise InputError("a file, and a model is a folder", where=str(local), next_step="name the folder around it")
    if model_id.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(model_id):
        raise UnknownName(
            f"no folder '{model_id}'",
            where=str(folder),
            allowed=f"a local folder, a hub id such as org/name, or {', '.join(list_embedded())}",
        )
    return _cached(model_id)


def list_embedded() -> list[str]:
    """Ids of the models that ship inside the package."""
    return sorted(EMBEDDED_PREFIX + file.parent.name for file in _EMBEDDED.glob("*/config.json"))


def read_config(place: Path) -> dict[str, Any]:
    """A model's config.json, by its folder or by itself; InputError when it is missing, not JSON or not an object."""
    file = place if place.is_file() else place / "config.json"
    return _read_object(file, "a model's folder holds config.json beside its weights")


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors files that make up the model, by name: the index's shards, else model.safetensors, else all there are.

    A repository may also hold the same weights a second time (consolidated.safetensors); those are not counted. The files may be
    missing on the disk. InputError for a corrupt index.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = _read_object(index, "fetch the model again").get("weight_map")
        names = list(shards.values()) if isinstance(shards, dict) else []
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise InputError("no weight_map of file names", where=str(index), next_step="fetch the model again")
        return [folder / name for name in sorted(set(names))]
    single = folder / "model.safetensors"
    return [single] if single.exists() else sorted(folder.glob("*.safetensors"))


def fingerprint(folder: Path, progress: Progress | None = None) -> str:
    """What identifies a base: sha256 hex over its config without incidental keys and the sha256 of every weight file, by name.

    A renamed or copied folder keeps it; one changed weight changes it. Files are hashed once (see `hashes`); `progress` is called
    with (bytes done, bytes in all). InputError when the folder has no config, no .safetensors weights, or not all of them.
    """
    config = json.dumps(_essential(read_config(folder)), sort_keys=True, separators=(",", ":"))
    files = weight_files(folder)
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        names = ", ".join(missing) or "*.safetensors"
        raise InputError(f"missing weights: {names}", where=str(folder), next_step="fetch the model again")
    lines = [f"config.json {sha256(config.encode()).hexdigest()}\n"]
    lines += [f"{file.name} {digest}\n" for file, digest in zip(files, content_digests(files, progress), strict=True)]
    return sha256("".join(lines).encode()).hexdigest()


def _essential(value: Any) -> Any:
    """A config without incidental keys, at every depth."""
    if isinstance(value, dict):
        return {key: _essential(part) for key, part in value.items() if key not in _INCIDENTAL}
    return [_essential(part) for part in value] if isinstance(value, list) else value


def _local(model_id: str, folder: Path) -> Path | None:
    """What a path points at, if there is anything; text that no system takes for a path points at nothing."""
    try:
        path = folder / Path(model_id).expanduser()
        return path if model_id and path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _embedded(model_id: str) -> Path:
    known = list_embedded()
    if model_id not in known:
        raise UnknownName(f"no model '{model_id}'{nearest(model_id, known)}", allowed=", ".join(known))
    return _EMBEDDED / model_id.removeprefix(EMBEDDED_PREFIX)


def _cached(model_id: str) -> Path:
    """The snapshot of `main` in the hub cache, if it is whole."""
    place = hub_cache() / f"models--{model_id.replace('/', '--')}"
    command = f"onecard fetch {model_id}"
    try:
        revision = (place / "refs" / "main").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        raise MissingPart(
            f"the model {model_id} is not on this disk",
            where=str(place),
            next_step=f"`{command}`, or name a local folder",
        ) from None
    snapshot = place / "snapshots" / revision
    missing = _missing(snapshot) if _REVISION.fullmatch(revision) else ["refs/main"]
    if missing:
        raise MissingPart(
            f"only a part of {model_id} is on this disk; missing: {', '.join(missing)}",
            where=str(place),
            next_step=f"`{command}` resumes the download",
        )
    return snapshot


def _missing(snapshot: Path) -> list[str]:
    """Names of what a snapshot lacks. Its files are links to blobs; a link to a blob that is not there counts as missing."""
    if not (snapshot / "config.json").is_file():
        return ["config.json"]
    files = weight_files(snapshot)
    return [file.name for file in files if not file.is_file()] if files else ["the weights (*.safetensors)"]


def _read_object(file: Path, next_step: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no {file.name}", where=str(file), next_step=next_step) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(file), next_step=next_step) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error})", where=str(file), next_step=next_step) from None
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=str(file), next_step=next_step)
    return value
