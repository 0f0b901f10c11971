"""What a person means by `onecard use ROLE|PATH|ID`: a model of the fleet, a role of the catalog, a folder, a hub id.

The answer is a model with what is settled of it: the fleet's own entry, else the role's form; what models.local.yaml says wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from onecard.catalog.checkpoint import Model, RoleName
from onecard.catalog.models import find_model, find_prequantized, load_models
from onecard.catalog.quantization import Quantization
from onecard.cli.model_shapes import is_local
from onecard.cli.use_overrides import Override, Overrides
from onecard.errors import CatalogError, OnecardError, Refusal, UnknownName, nearest
from onecard.fleet.loader import LoadedFleet
from onecard.fleet.schema import ModelSpec
from onecard.weights.inventory import EMBEDDED_PREFIX, resolve

ROLES: tuple[RoleName, ...] = get_args(RoleName)
FIRST_CONTEXT = 4096
# Copies whose bytes follow from the original's config; others (4-bit with layers left in 16 bits) are looked at themselves.
COPY_FORMS: Mapping[str, Quantization] = {"awq": "awq", "gptq": "gptq"}


@dataclass(frozen=True)
class Place:
    """Where `use` works: the folder of the record, the fleet in it (None: there is none) and its local overrides."""

    folder: Path
    fleet: LoadedFleet | None
    overrides: Overrides


@dataclass(frozen=True)
class Target:
    """A model with what is asked of it. `spec` holds it; `settled` are the keys of `spec` that somebody set, by who did.

    `copy` is a repository that holds the model in its form, where that was asked for by name. `source` says how it was found.
    """

    asked: str
    id: str
    spec: ModelSpec
    source: str
    settled: Mapping[str, str] = field(default_factory=dict)
    role: str | None = None
    key: str | None = None
    copy: str | None = None
    override: Override | None = None


def target_of(asked: str, place: Place) -> Target:
    """The model that is meant. UnknownName, CatalogError or InputError for what nobody knows, Refusal for a remote model."""
    loaded = place.fleet
    if loaded is not None and asked in loaded.fleet.models:
        return _with_override(_of_fleet(asked, asked, loaded), place)
    if asked in ROLES:
        return role_target(asked, place)
    return _with_override(_by_id(asked, place), place)


def role_target(role: str, place: Place) -> Target:
    """The role's model: one the fleet has, else the catalog's first."""
    models = models_of_role(role)
    if not models:
        raise UnknownName(f"the catalog has no model for the role '{role}'", allowed=", ".join(ROLES))
    for model in models:
        key = _key_of(model.id, place)
        if key is not None and place.fleet is not None:
            found = _of_fleet(role, key, place.fleet, role=role)
            return _with_override(found, place)
    return _with_override(_of_role(role, models[0]), place)


def models_of_role(role: str) -> list[Model]:
    """The catalog's models with this role, the one to take first comes first: those the role names a form for."""
    found = [model for model in load_models() if role in model.role_names]
    return sorted(found, key=lambda model: role_form(model, role) is None)


def role_form(model: Model, role: str) -> Quantization | None:
    """The form a role asks of a model."""
    return next((one.quantization for one in model.roles if one.name == role), None)


def others_of_role(target: Target) -> list[Target]:
    """The other models of the role that was asked for, or of the roles that the model has."""
    model = _catalogued(target.id)
    roles = [target.role] if target.role else list(model.role_names) if model else []
    found = {model.id: _of_role(role, model) for role in reversed(roles) for model in reversed(models_of_role(role))}
    return [found[name] for name in reversed(found) if name != target.id]


def copy_of(target: Target, form: Quantization) -> str | None:
    """A repository that holds the model in this form, where the catalog has seen one; None where none is known or needed."""
    return _ready(_catalogued(target.id), form)


def copy_wanted(spec: ModelSpec) -> str | None:
    """The repository that holds a catalogued model in the form a fleet asks for, where that form is loaded from a checkpoint only.

    None where the id itself is loaded, or where no copy is known.
    """
    model = _catalogued(spec.id) if spec.quantization in COPY_FORMS else None
    if model is None:
        return None
    from onecard.planner.shapes import shape_of_model
    from onecard.planner.weights import as_published

    if as_published(spec.quantization, shape_of_model(model)):
        return None
    return _ready(model, spec.quantization)


def _ready(model: Model | None, form: Quantization) -> str | None:
    ready = model.prequantized if model else ()
    return next((one.id for one in ready if one.verified and one.form == form), None)


def _of_fleet(asked: str, key: str, loaded: LoadedFleet, role: str | None = None) -> Target:
    spec = loaded.fleet.models[key]
    where = f"{loaded.file.name}: models.{key}"
    if spec.engine == "remote":
        raise Refusal(f"{spec.id} answers elsewhere, at {spec.url}", where=where, next_step="name a model of this card")
    settled = dict.fromkeys(("quantization", "context", "concurrency"), where)
    return Target(asked, spec.id, spec, where, settled, role, key)


def _of_role(role: str, model: Model) -> Target:
    form = role_form(model, role)
    spec = ModelSpec(id=model.id, quantization=form or "none", context=_context(model))
    source = f"role {role} of the catalog"
    return Target(role, model.id, spec, source, {"quantization": source} if form else {}, role)


def _by_id(asked: str, place: Place) -> Target:
    key = _key_of(asked, place)
    if key is not None and place.fleet is not None:
        return _of_fleet(asked, key, place.fleet)
    if is_local(asked, place.folder):
        where = "ships with onecard" if asked.startswith(EMBEDDED_PREFIX) else "a folder"
        return Target(asked, asked, ModelSpec(id=asked), where)
    model = _catalogued(asked)
    if model is not None:
        return Target(asked, model.id, ModelSpec(id=model.id, context=_context(model)), "the catalog")
    ready = find_prequantized(asked)
    if ready is not None and ready[1].form in COPY_FORMS and not _on_disk(asked, place.folder):
        model, copy = ready
        form, source = COPY_FORMS[copy.form], f"the catalog: {copy.id}"
        spec = ModelSpec(id=model.id, quantization=form, context=_context(model))
        return Target(asked, model.id, spec, source, {"quantization": copy.id}, copy=copy.id)
    if "/" not in asked:
        known = [*ROLES, *(place.fleet.fleet.models if place.fleet else ())]
        if close := nearest(asked, known):
            raise UnknownName(f"no role, model or folder '{asked}'{close}", allowed=", ".join(known))
    return Target(asked, asked, ModelSpec(id=asked), "a hub id")


def _with_override(target: Target, place: Place) -> Target:
    """The target as this machine wants it."""
    override = place.overrides.of(target.id, target.asked, *([target.copy] if target.copy else []))
    if override is None:
        return target
    spec = target.spec.model_copy(update=override.wishes)
    settled = {**target.settled, **dict.fromkeys(override.wishes, place.overrides.file.name)}
    copy = target.copy if spec.quantization == target.spec.quantization else None
    return Target(
        target.asked, target.id, spec, target.source, settled, target.role, target.key, copy, override=override
    )


def _key_of(model_id: str, place: Place) -> str | None:
    models = place.fleet.fleet.models if place.fleet else {}
    return next((key for key, spec in models.items() if spec.id.lower() == model_id.lower()), None)


def _catalogued(model_id: str) -> Model | None:
    try:
        return find_model(model_id)
    except CatalogError:
        return None


def _context(model: Model) -> int:
    """A first wish for its context; how much fits is for the plan."""
    return min(FIRST_CONTEXT, model.max_context)


def _on_disk(model_id: str, folder: Path) -> bool:
    try:
        return resolve(model_id, folder).is_dir()
    except OnecardError:
        return False
