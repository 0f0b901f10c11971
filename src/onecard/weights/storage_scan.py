"""Looks which models lie on this disk: in the hub cache, in the package, and in the folders that fleets name.

Only names, sizes, times and configs are read, never weights: reading those would look like a use of them.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onecard.catalog.quantization_config import read_quantization
from onecard.errors import CatalogError, OnecardError
from onecard.weights.inventory import EMBEDDED_PREFIX, list_embedded, read_config, resolve, weight_files
from onecard.weights.places import hub_cache
from onecard.weights.storage import BlobKey, Held, Place, Sign, Storage
from onecard.weights.storage_memory import Use, uses

REPOSITORY = "models--"
FOREIGN = ("datasets--", "spaces--")
SHARED_STORE = "blobs"  # blobs that several repositories of one cache hold lie here, and theirs are links to it
OWN_FOLDER = "a folder of your own, which onecard cannot fetch again: delete it yourself"
IN_PACKAGE = "part of the onecard package"
LINKED = "its folder in the hub cache is a link: remove what it points at yourself"


@dataclass(frozen=True)
class FleetNeeds:
    """The models a fleet, or a record of `onecard use`, needs: ids, which may be paths relative to the folder of its file."""

    file: Path
    models: tuple[str, ...]


def scan(needs: Sequence[FleetNeeds]) -> Storage:
    """Every model on this disk that onecard knows of, the hub cache's first, by id."""
    known = uses()
    cache = hub_cache()
    models = [_repository(folder, known) for folder in repositories(cache)]
    models += [_plain(id, "embedded", resolve(id, Path()), known) for id in list_embedded()]
    models += [_plain(str(folder), "folder", folder, known) for folder in _named_folders(needs, models)]
    held = tuple(_with_needs(model, needs) for model in models)
    return Storage(held, _held_outside(cache, held))


def repositories(cache: Path) -> list[Path]:
    """The folders of models in a hub cache, by name."""
    with suppress(OSError):
        return sorted(place for place in cache.iterdir() if place.name.startswith(REPOSITORY) and place.is_dir())
    return []


def model_id(repository: Path) -> str:
    """models--org--name is org/name."""
    return repository.name.removeprefix(REPOSITORY).replace("--", "/")


def snapshots(repository: Path) -> list[Path]:
    """The revisions of a repository: that of `main` first, then the others by name."""
    with suppress(OSError):
        found = sorted(place for place in (repository / "snapshots").iterdir() if place.is_dir())
        main = ""
        with suppress(OSError, ValueError):
            main = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
        return sorted(found, key=lambda place: place.name != main)
    return []


def missing_files(folder: Path) -> tuple[str, ...]:
    """What a folder lacks to be loaded. A link to a blob that is not there counts as missing."""
    if not (folder / "config.json").is_file():
        return ("config.json",)
    try:
        files = weight_files(folder)
    except OnecardError:
        return ("a readable model.safetensors.index.json",)
    return tuple(file.name for file in files if not file.is_file()) if files else ("the weights (*.safetensors)",)


def _repository(folder: Path, known: Sequence[Use]) -> Held:
    found = snapshots(folder)
    blobs = _blobs(folder)
    at, sign = _last_use(folder, found or [folder], known)
    held = Held(model_id(folder), "hub", folder, blobs, missing=("every file",), used_at=at, used_sign=sign)
    if folder.is_symlink():
        held = replace(held, fixed=LINKED)
    if not found:
        return held
    quantization, dtype = _form(found[0])
    return replace(
        held,
        revision=found[0].name,
        revisions=len(found),
        quantization=quantization,
        dtype=dtype,
        missing=missing_files(found[0]),
    )


def _plain(id: str, place: Place, folder: Path, known: Sequence[Use]) -> Held:
    quantization, dtype = _form(folder)
    at, sign = _last_use(folder, [folder], known)
    fixed = IN_PACKAGE if place == "embedded" else OWN_FOLDER
    missing = missing_files(folder)
    return Held(id, place, folder, _blobs(folder), None, 0, quantization, dtype, missing, at, sign, (), fixed)


def _form(folder: Path) -> tuple[str, str]:
    """(quantization, dtype) as the config says them."""
    try:
        config = read_config(folder)
    except OnecardError:
        return "unknown", "unknown"
    return _quantization(config), _dtype(config)


def _quantization(config: Mapping[str, Any]) -> str:
    try:
        form = read_quantization(config)
        return form.form if form else "none"
    except CatalogError:
        said = config.get("quantization_config")
        return str(said.get("quant_method", "unknown")) if isinstance(said, dict) else "unknown"


def _dtype(config: Mapping[str, Any]) -> str:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(said := part.get(key), str):
                return said.removeprefix("torch.")
    return "unknown"


def _last_use(folder: Path, places: Sequence[Path], known: Sequence[Use]) -> tuple[float, Sign]:
    """The latest sign of use: a load that onecard remembers, or when weights were read or written."""
    real = Path(os.path.realpath(folder))
    signs: list[tuple[float, Sign]] = [(use.at, "loaded") for use in known if use.folder.is_relative_to(real)]
    for place in places:
        weights = list(place.glob("*.safetensors")) or [place]
        for file in weights:
            with suppress(OSError):
                status = file.stat()
                signs += [(status.st_mtime, "written")]
                # A folder is read by whoever lists it, and that is no use of the model.
                signs += [(status.st_atime, "read")] if stat.S_ISREG(status.st_mode) else []
    if not signs:  # nothing but links to blobs that are gone
        with suppress(OSError):
            signs.append((folder.stat().st_mtime, "written"))
    return max(signs, key=lambda each: each[0], default=(0.0, "written"))


def _blobs(folder: Path) -> dict[BlobKey, int]:
    """Bytes on disk of every file below a folder, by device and inode; links out of it are followed, because they hold what they name."""
    found: dict[BlobKey, int] = {}
    for file in _files(folder):
        with suppress(OSError):
            status = file.stat()
            if stat.S_ISREG(status.st_mode):
                found[status.st_dev, status.st_ino] = bytes_on_disk(status)
    return found


def bytes_on_disk(status: os.stat_result) -> int:
    """What a file takes: whole blocks, and less than its length where it is sparse."""
    return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size


def _files(folder: Path) -> Iterator[Path]:
    for top, _, names in os.walk(folder):
        yield from (Path(top, name) for name in names)


def _held_outside(cache: Path, models: Sequence[Held]) -> frozenset[BlobKey]:
    """Files of these models with a name elsewhere: a hard link that is not among them, or a dataset that shares the blob."""
    store = Path(os.path.realpath(cache / SHARED_STORE))
    names: Counter[BlobKey] = Counter()
    links: dict[BlobKey, int] = {}
    shared = set()
    for model in models:
        for file in _files(model.folder):
            with suppress(OSError):
                real = file.stat()
                key = (real.st_dev, real.st_ino)
                if file.is_symlink():
                    shared |= {key} if Path(os.path.realpath(file)).is_relative_to(store) else set()
                else:
                    names[key] += 1
                links[key] = real.st_nlink
    foreign = set()
    with suppress(OSError):
        for place in cache.iterdir():
            foreign |= set(_blobs(place)) if place.name.startswith(FOREIGN) else set()
    # A blob of the shared store has one name there, and its models' names are links to it.
    linked = {key for key, count in links.items() if count > names[key] + (key in shared)}
    return frozenset(key for key in links if key in linked or key in foreign)


def _named_folders(needs: Sequence[FleetNeeds], models: Sequence[Held]) -> list[Path]:
    """Folders that fleets name and that are not among `models`."""
    listed = [Path(os.path.realpath(model.folder)) for model in models]
    found = {place for need in needs for id in need.models if (place := _folder_of(id, need)) is not None}
    return sorted(place for place in found if not any(place.is_relative_to(other) for other in listed))


def _with_needs(model: Held, needs: Sequence[FleetNeeds]) -> Held:
    real = Path(os.path.realpath(model.folder))

    def names(need: FleetNeeds) -> bool:
        for id in need.models:
            place = _folder_of(id, need)
            if place.is_relative_to(real) if place else id == model.id:
                return True
        return False

    return replace(model, needed_by=tuple(dict.fromkeys(str(need.file) for need in needs if names(need))))


def _folder_of(id: str, need: FleetNeeds) -> Path | None:
    """The folder on this disk that an id names by its path, as `inventory.resolve` would take it; None for a hub id."""
    if id.startswith(EMBEDDED_PREFIX):
        return None
    with suppress(OSError, RuntimeError, ValueError):
        place = need.file.parent / Path(id).expanduser()
        return Path(os.path.realpath(place)) if place.is_dir() else None
    return None
