"""From a model's id to what the planner needs of it: embedded, a folder or config.json, the catalog, a snapshot on this disk, the hub.

The hub is asked last, for a model that is nowhere else, and only for its config and the headers of its weights. Headers are the truth
of a quantized checkpoint; an architecture nobody knows is refused even when its headers are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onecard.catalog.architecture import known_architectures
from onecard.catalog.models import find_model, wrong_ids
from onecard.catalog.units import format_bytes
from onecard.errors import CatalogError, InputError, MachineError, OnecardError, UnknownName
from onecard.fleet.schema import ModelSpec
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model, unknown_shape
from onecard.planner.weights import weight_lines
from onecard.weights.headers import HeaderSummary, read_local
from onecard.weights.hub_access import is_repo_id, offline_variable
from onecard.weights.hub_faults import NoSuchRepository
from onecard.weights.hub_memory import HubModel
from onecard.weights.inventory import EMBEDDED_PREFIX, read_config, resolve, weight_files
from onecard.weights.published import disagreement

if TYPE_CHECKING:
    from onecard.weights.hub import About

FROM_HEADERS = "from the checkpoint's own headers"


@dataclass(frozen=True)
class Found:
    """A model outside the catalog. `place` says where its config was read, `commit` which state of the hub it is of.

    `answered`: the hub was asked just now and answered, so that it can be asked for more.
    """

    shape: ModelShape
    config: Mapping[str, Any]
    place: str
    headers: HeaderSummary | None = None
    commit: str | None = None
    answered: bool = False


def shape_of(model_id: str, folder: Path, remote: bool = False, *, offline: bool = False) -> ModelShape:
    """What the planner needs of a model; `offline` forbids asking the hub, as HF_HUB_OFFLINE=1 does.

    UnknownName or CatalogError for one that nobody has or whose architecture nobody knows, InputError for a broken or gated one,
    MachineError when the hub would have to be asked and cannot be.
    """
    if remote:
        return unknown_shape(model_id)
    if is_local(model_id, folder):
        return find_local(model_id, folder).shape
    try:
        return shape_of_model(find_model(model_id))
    except CatalogError as unknown:
        return find_outside(model_id, folder, unknown, offline=offline).shape


def is_local(model_id: str, folder: Path) -> bool:
    """Whether the id names something on this disk: an embedded model, a path, or a folder or config beside the fleet file."""
    if model_id.startswith((EMBEDDED_PREFIX, ".", "/", "~")):
        return True
    try:
        return (folder / model_id).is_dir() or _is_config_file(folder / model_id)
    except (OSError, ValueError):
        return False


def find_local(model_id: str, folder: Path) -> Found:
    """A model in a folder, or one of which there is no more than its config.json."""
    if model_id.endswith(".json"):
        file = folder / Path(model_id).expanduser()
        if _is_config_file(file):
            return _found(model_id, read_config(file), str(file), _headers_beside(file))
    place = resolve(model_id, folder)
    return _found(model_id, read_config(place), str(place), _headers_in(place))


def find_outside(
    model_id: str, folder: Path, unknown: CatalogError, *, offline: bool = False, revision: str = "main"
) -> Found:
    """A model the catalog does not have (`unknown` says so): a snapshot on this disk, else on the hub."""
    try:
        place = resolve(model_id, folder)
    except OnecardError:
        return _on_hub(model_id, unknown, offline, revision)
    return _found(model_id, read_config(place), str(place), _headers_in(place))


def about(found: Found) -> About | None:
    """What the hub's record says of a model that was found there just now; None for another, or when the hub does not say."""
    if not found.answered:
        return None
    from onecard.weights.hub import read_about

    try:
        return read_about(found.shape.id, found.commit or "main")
    except OnecardError:
        return None


def _on_hub(model_id: str, unknown: CatalogError, forbidden: bool, revision: str) -> Found:
    from onecard.weights.hub import recall_model

    if not is_repo_id(model_id) or model_id.lower() in {wrong.id.lower() for wrong in wrong_ids()}:
        raise unknown
    reason = "--offline" if forbidden else offline_variable()
    if reason is None:
        return _asked(model_id, unknown, revision)
    model = recall_model(model_id, revision)
    if model is None:
        raise CatalogError(
            f"{unknown.problem}, and the hub was not asked ({reason})",
            where=unknown.where,
            allowed=unknown.allowed,
            next_step=unknown.next_step,
        )
    return _of_hub(model)


def _asked(model_id: str, unknown: CatalogError, revision: str) -> Found:
    """Asks the hub; what was read of it before stands in when the hub cannot be reached."""
    from onecard.cli.hub_output import asking
    from onecard.weights.hub import read_model, recall_model
    from onecard.weights.hub_access import access

    by = access()
    try:
        with asking(by.host, model_id) as progress:
            return replace(_of_hub(read_model(model_id, revision, by=by, progress=progress)), answered=True)
    except NoSuchRepository as error:
        raise UnknownName(f"{unknown.problem}; {error.problem}", where=error.where, next_step=error.next_step) from None
    except MachineError as error:
        model = recall_model(model_id, revision, by=by)
        if model is None:
            raise MachineError(
                f"{unknown.problem}; {error.problem}", where=error.where, next_step=error.next_step
            ) from None
        found = _of_hub(model)
        return replace(found, shape=_noted(found.shape, f"{error.problem}; this is what it said on {model.read_on}"))


def _of_hub(model: HubModel) -> Found:
    at = f"{model.host} at commit {model.commit[:12]}" if model.commit else model.host
    found = _found(model.id, model.config, f"{at}, read on {model.read_on}", model.headers)
    if model.headers is None:
        note = "the repository has no model.safetensors, so its weights are counted from its config alone"
        found = replace(found, shape=_noted(found.shape, note))
    return replace(found, commit=model.commit)


def _found(model_id: str, config: Mapping[str, Any], place: str, headers: HeaderSummary | InputError | None) -> Found:
    """The shape by the config, and what the headers have to say to it. Headers that cannot be read are a note, not an end."""
    broken = headers if isinstance(headers, InputError) else None
    held = headers if isinstance(headers, HeaderSummary) else None
    try:
        shape = shape_of_config(model_id, config)
    except CatalogError as error:
        raise _refused(model_id, config, held, error) from None
    if held is not None:
        shape = with_headers(shape, held)
    if broken is not None:
        shape = _noted(
            shape, f"its weights cannot be read ({broken.problem}), so they are counted from its config alone"
        )
    return Found(shape, config, place, held)


def with_headers(shape: ModelShape, headers: HeaderSummary) -> ModelShape:
    """The shape with a quantized checkpoint's own bytes in it, and a note where headers and config part."""
    as_is = ModelSpec.model_validate({"id": shape.id})
    plain = replace(shape, published_bytes=None, published_source=None)
    counted = sum(line.bytes for line in weight_lines("", as_is, plain))
    note = disagreement(headers, shape.layout, shape.published, counted)
    if note is not None:
        shape = _noted(shape, note)
    if shape.published == "none" or not headers.packed:
        return shape
    return replace(shape, published_bytes=headers.weight_bytes, published_source=FROM_HEADERS)


def _refused(
    model_id: str, config: Mapping[str, Any], headers: HeaderSummary | None, error: CatalogError
) -> CatalogError:
    """Why this config cannot be planned, with the model's name; for an unknown architecture also what is known and what is not."""
    where = f"{model_id}: {error.where or 'config.json'}"
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type in known_architectures():
        return CatalogError(error.problem, where=where, allowed=error.allowed, next_step=error.next_step)
    said = [error.problem]
    if headers is not None:
        said.append(
            f"its headers give the weights exactly ({format_bytes(headers.weight_bytes)}), but neither the KV cache nor the "
            "activations, and nothing is guessed"
        )
    if "auto_map" in config:
        said.append("the repository brings code of its own (trust_remote_code), which is never run to plan")
    return CatalogError("; ".join(said), where=where, allowed=error.allowed, next_step=error.next_step)


def _noted(shape: ModelShape, note: str) -> ModelShape:
    return replace(shape, notes=(*shape.notes, note))


def _is_config_file(path: Path) -> bool:
    return path.suffix == ".json" and path.is_file()


def _headers_beside(file: Path) -> HeaderSummary | InputError | None:
    """Weights belong to a config of the usual name; one of another name may be of any model."""
    return _headers_in(file.parent) if file.name == "config.json" else None


def _headers_in(folder: Path) -> HeaderSummary | InputError | None:
    """The checkpoint of a folder; None when there is none, or not yet; the error when it is damaged."""
    try:
        files = weight_files(folder)
        return read_local(files) if files and all(file.is_file() for file in files) else None
    except InputError as error:
        return error
