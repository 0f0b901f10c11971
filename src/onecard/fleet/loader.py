"""Reads a fleet file with the recipes it names: one call, one object, errors that point at the line.

Paths in a fleet file are relative to the file, so a folder with a fleet, its data and its store can be moved as one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from onecard.errors import FleetError, nearest
from onecard.fleet.document import Document, read_document, validate
from onecard.fleet.recipe import HUB, Recipe
from onecard.fleet.schema import AgentSpec, Fleet


@dataclass(frozen=True)
class LoadedFleet:
    """A fleet and where it was read from."""

    fleet: Fleet
    file: Path

    @property
    def folder(self) -> Path:
        return self.file.parent

    def resolve(self, relative: str) -> Path:
        """A path of the fleet file made absolute; `~` is expanded."""
        try:
            return (self.folder / Path(relative).expanduser()).resolve()
        except (RuntimeError, ValueError) as error:  # ~nobody, or a NUL byte
            raise FleetError(f"'{relative}' is not a path: {error}", where=str(self.file)) from None

    @property
    def store_url(self) -> str:
        """The store as a path or, with a scheme such as s3://, as it stands."""
        return self.fleet.store if "://" in self.fleet.store else str(self.resolve(self.fleet.store))

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of the fleet: the same wishes give the same digest."""
        return hashlib.sha256(self.fleet.model_dump_json().encode()).hexdigest()

    def agent(self, name: str) -> AgentSpec:
        agents = self.fleet.agents
        if name not in agents:
            known = sorted(agents)
            raise FleetError(
                f"no agent '{name}'{nearest(name, known)}", where=f"{self.file}: agents", allowed=", ".join(known)
            )
        return agents[name]

    def data_file(self, agent: str) -> Path | str:
        """The training rows of an agent: a file, a saved data set's folder, or a data set of the hub as it is named.

        FleetError when neither agent nor recipe names any, or nothing of that kind is there; the hub is not asked.
        """
        spec = self.agent(agent)
        named = spec.data or (spec.recipe.data if spec.recipe else None)
        if named is None:
            raise FleetError(
                "no training data",
                where=f"{self.file}: agents.{agent}.data",
                allowed=f"a file of rows, a saved data set's folder, or {HUB}owner/name[:split]",
                next_step="name one",
            )
        if named.startswith(HUB):
            return named
        folder = self.resolve(named)
        return folder if _is_saved_data_set(folder) else self.existing(named, f"agents.{agent}.data")

    def existing(self, named: str, key: str) -> Path:
        """A file the fleet names, checked to exist."""
        path = self.resolve(named)
        if not path.is_file():
            raise FleetError(
                f"no file '{path}'", where=f"{self.file}: {key}", next_step="paths are relative to the fleet file"
            )
        return path


def _is_saved_data_set(folder: Path) -> bool:
    """A folder that `save_to_disk` of the `datasets` library wrote."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def load_fleet(file: Path | str) -> LoadedFleet:
    """Reads and checks a fleet file; FleetError says file, line, key, value, what is allowed."""
    document = read_document(Path(file))
    return LoadedFleet(validate(_with_recipes(document), Fleet), Path(file).resolve())


def load_recipe(named: str, folder: Path, where: str) -> dict[str, Any]:
    """A recipe by file (relative to `folder`) or by the name of a shipped one, checked, as plain data."""
    shipped = shipped_recipes()
    file = folder / Path(named).expanduser()
    if named in shipped:
        file = shipped[named]
    elif not file.is_file():
        known = sorted(shipped)
        raise FleetError(
            f"no recipe '{named}'{nearest(named, known)}",
            where=where,
            allowed=f"a YAML file relative to the fleet, or a shipped recipe: {', '.join(known)}",
        )
    document = read_document(file)
    recipe = validate(document, Recipe)
    data = recipe.model_dump(mode="json")
    if recipe.data is not None and not recipe.data.startswith(HUB):
        data["data"] = str((file.parent / recipe.data).resolve())
    if "name" not in document.value:
        data["name"] = file.stem
    return data


def shipped_recipes() -> dict[str, Path]:
    """Recipes in the package, by name."""
    folder = Path(str(resources.files("onecard.fleet") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _with_recipes(document: Document) -> Document:
    """The document with every recipe named by text replaced by its content."""
    agents = document.value.get("agents")
    if not isinstance(agents, dict):
        return document
    value = {**document.value, "agents": dict(agents)}
    for name, agent in agents.items():
        if isinstance(agent, dict) and isinstance(agent.get("recipe"), str):
            where = document.place(("agents", name, "recipe"))
            value["agents"][name] = {**agent, "recipe": load_recipe(agent["recipe"], document.file.parent, where)}
    return Document(document.file, value, document.lines)
