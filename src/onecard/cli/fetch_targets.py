"""From what a person asked for (all, a role, ids) to repositories of the hub, before any of their files is asked for.

A role or a model of the fleet is fetched in the form in which `onecard use` makes it active on this card; an id is that repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from onecard.catalog.checkpoint import RoleName
from onecard.catalog.models import find_model, find_prequantized, wrong_ids
from onecard.cli.use_fit import fitted, repository_of
from onecard.cli.use_targets import COPY_FORMS, Place, copy_wanted, role_target, target_of
from onecard.errors import CatalogError, InputError, UnknownName, nearest
from onecard.fleet.schema import ModelSpec
from onecard.weights.hub_access import is_repo_id
from onecard.weights.inventory import EMBEDDED_PREFIX, resolve

if TYPE_CHECKING:
    from onecard.cli.use_fit import Ground

ROLES: tuple[str, ...] = get_args(RoleName)
FLEET_FILE = "fleet.yaml"


@dataclass(frozen=True)
class Target:
    """A repository to fetch and why. `note`: what a person should know before."""

    repo: str
    why: str
    note: str | None = None


@dataclass(frozen=True)
class Skipped:
    """Something the fleet names that is not fetched, and why."""

    name: str
    reason: str


def targets_of(asked: Sequence[str], place: Place, ground: Callable[[], Ground]) -> tuple[list[Target], list[Skipped]]:
    """The repositories, each once, in the order asked for; nothing asked means all models of the fleet. `ground` is asked for a role only.

    CatalogError for an id that is known to be wrong, with the right one; UnknownName for a word that is neither role, model of the
    fleet nor id; InputError for `all` without a fleet.
    """
    fleet = place.fleet
    found: list[Target] = []
    skipped: list[Skipped] = []
    for word in asked or ("all",):
        if word == "all":
            for key in _fleet_models(place):
                _add_model(key, place, found, skipped)
        elif fleet is not None and word in fleet.fleet.models:
            _add_model(word, place, found, skipped)
        elif word in ROLES:
            _add_role(word, place, ground(), found, skipped)
        elif word.startswith(EMBEDDED_PREFIX) or _is_folder(word):
            resolve(word, Path.cwd())
            skipped.append(Skipped(word, "already on this disk"))
        else:
            found.append(_id(word, fleet.fleet.models if fleet else ()))
    return list({target.repo: target for target in reversed(found)}.values())[::-1], skipped


def _fleet_models(place: Place) -> Iterable[str]:
    if place.fleet is None:
        raise InputError(
            f"`all` are the models of a fleet, and there is no {FLEET_FILE} here",
            allowed="--fleet FILE, a role of the catalog, or ids",
            next_step="onecard fetch --fleet FILE, or onecard fetch ROLE (`onecard models` lists roles)",
        )
    return place.fleet.fleet.models


def _add_model(key: str, place: Place, found: list[Target], skipped: list[Skipped]) -> None:
    """One model of the fleet: to be fetched, or with the reason why not."""
    assert place.fleet is not None  # `key` is one of its models
    spec = place.fleet.fleet.models[key]
    if spec.engine == "remote":
        skipped.append(Skipped(f"{key}: {spec.id}", "served elsewhere"))
    elif _is_here(spec, place):
        resolve(spec.id, place.folder)
        skipped.append(Skipped(f"{key}: {spec.id}", "already on this disk"))
    else:
        why = f"`{key}` of {place.fleet.file.name}"
        original = _id(spec.id, (), why)
        wanted = target_of(key, place).spec
        found.append(_in_form(original, wanted.quantization, copy_wanted(wanted) or original.repo))


def _add_role(role: str, place: Place, ground: Ground, found: list[Target], skipped: list[Skipped]) -> None:
    """What `onecard use ROLE` makes active on this card, from the fleet or else the catalog."""
    wanted = role_target(role, place)
    if wanted.key is not None and _is_here(wanted.spec, place):
        _add_model(wanted.key, place, found, skipped)
        return
    made = fitted(wanted, place, ground)
    why = f"`{wanted.key}` of the fleet, for {role}" if wanted.key else f"first choice of the catalog for {role}"
    target = _in_form(Target(wanted.id, why), made.spec.quantization, repository_of(made, place))
    fit = None if made.fits else f"it does not fit {ground.card.name}: `onecard use {role}` says what would"
    notes = [note for note in (target.note, fit) if note]
    found.append(replace(target, note="; ".join(notes) or None))


def _in_form(original: Target, form: str, repository: str | None) -> Target:
    """The repository that holds a model in its form; the 16-bit one where nobody is known to have made a copy."""
    if repository is not None and repository != original.repo:
        return Target(repository, original.why, f"{original.repo} in {form}, as `onecard use` loads it")
    if repository is None and form in COPY_FORMS:
        note = f"the catalog knows no {form} copy: `onecard quantize {original.repo} --to {form}` makes one of it"
        return replace(original, note=note)
    return original


def _is_here(spec: ModelSpec, place: Place) -> bool:
    return spec.id.startswith((EMBEDDED_PREFIX, ".", "/", "~")) or (place.folder / spec.id).exists()


def _id(word: str, fleet_models: Iterable[str], why: str = "asked for by its id") -> Target:
    """An id as the catalog writes it, or as it stands for a repository outside the catalog."""
    try:
        model = find_model(word)
        return Target(model.id, why)
    except CatalogError:
        ready = find_prequantized(word)
        if ready is not None:
            return Target(ready[1].id, why)
        if word.lower() in {wrong.id.lower() for wrong in wrong_ids()}:
            raise
    known = (*ROLES, *fleet_models)
    close = nearest(word, known)
    if not is_repo_id(word) or (close and "/" not in word):
        raise UnknownName(
            f"no role, model of the fleet or id '{word[:100]}'{close}",
            allowed=f"all; a role ({', '.join(ROLES)}); an id such as org/name",
            next_step="`onecard models` lists the catalog",
        )
    return Target(word, why, "not in the catalog: nothing is known of it but what the hub says")


def _is_folder(word: str) -> bool:
    return word.startswith((".", "/", "~")) and Path(word).expanduser().is_dir()
