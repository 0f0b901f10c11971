"""From what a person asked for (all, a role, ids) to repositories of the hub, before anybody is asked over the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from onecard.catalog.checkpoint import RoleName
from onecard.catalog.models import find_model, find_prequantized, load_models, wrong_ids
from onecard.errors import CatalogError, InputError, UnknownName, nearest
from onecard.weights.hub_access import is_repo_id
from onecard.weights.inventory import EMBEDDED_PREFIX, resolve

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet

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


def targets_of(asked: Sequence[str], fleet: LoadedFleet | None) -> tuple[list[Target], list[Skipped]]:
    """The repositories, each once, in the order asked for; nothing asked means all models of the fleet.

    CatalogError for an id that is known to be wrong, with the right one; UnknownName for a word that is neither role, model of the
    fleet nor id; InputError for `all` without a fleet.
    """
    found: list[Target] = []
    skipped: list[Skipped] = []
    for word in asked or ("all",):
        if word == "all":
            more, aside = _all(fleet)
            found += more
            skipped += aside
        elif fleet is not None and word in fleet.fleet.models:
            _add_model(word, fleet, found, skipped)
        elif word in ROLES:
            found.append(_role(word))
        elif word.startswith(EMBEDDED_PREFIX) or _is_folder(word):
            resolve(word, Path.cwd())
            skipped.append(Skipped(word, "already on this disk"))
        else:
            found.append(_id(word, fleet.fleet.models if fleet else ()))
    return list({target.repo: target for target in reversed(found)}.values())[::-1], skipped


def _all(fleet: LoadedFleet | None) -> tuple[list[Target], list[Skipped]]:
    if fleet is None:
        raise InputError(
            f"`all` are the models of a fleet, and there is no {FLEET_FILE} here",
            allowed="--fleet FILE, a role of the catalog, or ids",
            next_step="onecard fetch --fleet FILE, or onecard fetch ROLE (`onecard models` lists roles)",
        )
    found: list[Target] = []
    skipped: list[Skipped] = []
    for key in fleet.fleet.models:
        _add_model(key, fleet, found, skipped)
    return found, skipped


def _add_model(key: str, fleet: LoadedFleet, found: list[Target], skipped: list[Skipped]) -> None:
    """One model of the fleet: to be fetched, or with the reason why not."""
    spec = fleet.fleet.models[key]
    if spec.engine == "remote":
        skipped.append(Skipped(f"{key}: {spec.id}", "served elsewhere"))
    elif spec.id.startswith((EMBEDDED_PREFIX, ".", "/", "~")) or (fleet.folder / spec.id).exists():
        resolve(spec.id, fleet.folder)
        skipped.append(Skipped(f"{key}: {spec.id}", "already on this disk"))
    else:
        found.append(_id(spec.id, (), why=f"`{key}` of {fleet.file.name}"))


def _role(role: str) -> Target:
    """The model the catalog takes first for a role, and a ready copy in the form it names, where there is one."""
    model = next(model for model in load_models() if role in model.role_names)
    form = next(one.quantization for one in model.roles if one.name == role)
    ready = next((copy for copy in model.prequantized if copy.verified and form and copy.form.startswith(form)), None)
    note = f"the catalog runs it as {form}: {ready.id} is that already" if ready else None
    return Target(model.id, f"first choice of the catalog for {role}", note)


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
