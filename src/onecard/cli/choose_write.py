"""The chosen model put into the text of a fleet file: its id and its form, and nothing else, so that comments stay."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from onecard.errors import FleetError, InputError
from onecard.evidence.results import write_atomically
from onecard.fleet.document import read_document
from onecard.fleet.loader import load_fleet, shipped_recipes
from onecard.fleet.recipe import HUB

PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+~")


def check_target(file: Path, force: bool) -> None:
    """InputError for a file that is there, unless it may be replaced, and for a folder that is not."""
    if file.is_dir():
        raise InputError("a folder, not a file", where=str(file), next_step="name a file")
    if not file.parent.is_dir():
        raise InputError("no such folder", where=str(file.parent), next_step="make it, or name another file")
    if file.exists() and not force:
        raise InputError(
            "there is a file already", where=str(file), next_step="name another file, or --force to replace it"
        )


def write_choice(source: Path, target: Path, key: str, model_id: str, quantization: str) -> list[str]:
    """Writes the fleet with this model; returns what a person should know of it.

    FleetError where the file cannot be edited so, or what it names is not found from where the new file stands.
    """
    with source.open(encoding="utf-8", newline="") as stream:  # line ends stay as they are
        text = stream.read()
    _check_recipes(source, target)
    write_atomically(target, edited(text, str(source), key, model_id, quantization))
    return _remarks(source, target)


def edited(text: str, name: str, key: str, model_id: str, quantization: str) -> str:
    """The text with `id` and `quantization` of `models.<key>` replaced where they stand."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spec = _value(_value(root, "models"), key)
    id_node, form_node = _value(spec, "id"), _value(spec, "quantization")
    changes = [(id_node.start_mark.index, id_node.end_mark.index, _scalar(model_id))] if id_node else []
    if form_node is not None:
        changes.append((form_node.start_mark.index, form_node.end_mark.index, quantization))
    elif quantization != "none" and id_node is not None:
        changes.append(_added(text, spec, id_node, quantization))
    new = text
    for start, end, word in sorted(changes, reverse=True):
        new = new[:start] + word + new[end:]
    wanted = deepcopy(yaml.safe_load(text))
    wanted["models"][key] = {**wanted["models"][key], "id": model_id}
    if form_node is not None or quantization != "none":
        wanted["models"][key]["quantization"] = quantization
    if _read(new) != wanted:
        raise FleetError(
            "the model cannot be replaced in the text alone",
            where=f"{name}: models.{key}",
            allowed="`id` and `quantization` written out under the model, without anchors",
            next_step=f"set id: {model_id} and quantization: {quantization} by hand",
        )
    return new


def _added(text: str, spec: yaml.Node, id_node: yaml.Node, quantization: str) -> tuple[int, int, str]:
    """A quantization after the id: behind a comma in braces, on a line of its own otherwise."""
    end = id_node.end_mark.index
    if getattr(spec, "flow_style", False):
        return end, end, f", quantization: {quantization}"
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    newline = "\n"
    if text[line_end - 1] == "\r":
        line_end, newline = line_end - 1, "\r\n"
    return line_end, line_end, f"{newline}{' ' * spec.start_mark.column}quantization: {quantization}"


def _value(node: Any, key: str) -> Any:
    """The node under a key; None where there is none."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _scalar(word: str) -> str:
    """A word as YAML: plain where that means itself, else in quotes."""
    plain = set(word) <= PLAIN and word[0].isalpha() and word[-1] != ":" and yaml.safe_load(word) == word
    if plain:
        return word
    # An escape for each letter that could mean something, so that a word in quotes is always read as itself.
    return '"' + "".join(c if c in PLAIN else f"\\U{ord(c):08x}" for c in word) + '"'


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _check_recipes(source: Path, target: Path) -> None:
    """FleetError when a recipe's file is not where the new fleet would look for it."""
    agents = read_document(source).value.get("agents", {})
    for name, agent in agents.items():
        recipe = agent.get("recipe")
        if isinstance(recipe, str) and recipe not in shipped_recipes():
            file = target.parent / Path(recipe).expanduser()
            if not file.is_file():
                raise FleetError(
                    f"the recipe of {name} would not be found from there: {file}",
                    where=str(target),
                    next_step="write it beside the fleet file",
                )


def _remarks(source: Path, target: Path) -> list[str]:
    """What the new file no longer finds, where it stands in another folder."""
    if source.resolve().parent == target.resolve().parent:
        return []
    loaded = load_fleet(target)
    files = [agent.data for agent in loaded.fleet.agents.values() if agent.data and not agent.data.startswith(HUB)]
    files += [agent.suite.data for agent in loaded.fleet.agents.values() if agent.suite]
    lost = [file for file in dict.fromkeys(files) if not loaded.resolve(file).exists()]
    said = ["paths in it are relative to its folder, which is another one now"]
    return [*said, f"not found from there: {', '.join(lost)}"] if lost else said
