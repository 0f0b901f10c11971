"""A YAML file whose keys remember their lines, so that an error can point at the place it is about.

Reading and validating any of our YAML files goes through `read_document` and `validate`; both raise the error class they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from onecard.errors import FleetError, nearest

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]
_SCALARS = yaml.constructor.SafeConstructor()


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: `value` is plain data, `lines` maps a path of keys to its line (from 1)."""

    file: Path
    value: Any
    lines: Mapping[KeyPath, int]

    def place(self, path: KeyPath) -> str:
        """`file:line: key.path`, with the line of the longest part of the path that exists."""
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1)
        key = ".".join(str(part) for part in path)
        return f"{self.file}:{line}: {key}" if key else f"{self.file}:{line}"


def read_document(file: Path) -> Document:
    """Reads one YAML mapping. FleetError for a missing file, broken YAML, a key given twice, or another top level."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FleetError("no such file", where=str(file), next_step="`onecard init` writes a starter fleet") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"cannot be read: {error}", where=str(file)) from None
    lines: dict[KeyPath, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
        value = None if node is None else _plain(node, (), lines, file)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or str(error)
        raise FleetError(f"not valid YAML: {problem}", where=where, next_step="check indentation and colons") from None
    if not isinstance(value, dict):
        raise FleetError("the file must be a mapping of keys to values", where=f"{file}:1")
    return Document(file, value, lines)


def _plain(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], file: Path) -> Any:
    """Plain data of a node; records the line of every path under it."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _SCALARS.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise FleetError(f"key {key!r} is not text", where=f"{file}:{line}", next_step="quote it")
            if key in result:
                place = ".".join(map(str, (*path, key)))
                raise FleetError(f"key '{key}' is given twice", where=f"{file}:{line}: {place}")
            lines[(*path, key)] = line
            result[key] = _plain(value_node, (*path, key), lines, file)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, file) for index, item in enumerate(node.value)]
    return _SCALARS.construct_object(node)


def validate(document: Document, model: type[Model]) -> Model:
    """The document as `model`; FleetError names file, line, key, bad value, allowed values and the nearest known key."""
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        raise _first_fault(document, model, error) from None


def _first_fault(document: Document, model: type[BaseModel], error: ValidationError) -> FleetError:
    faults = error.errors()
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault = unknown[0] if unknown else max(faults, key=lambda f: _closeness(document, f))
    path = tuple(fault.get("ctx", {}).get("path", ())) or _real_path(document, fault["loc"])
    more = f" ({len(faults) - 1} more after this one)" if len(faults) > 1 and fault["type"] != "extra_forbidden" else ""
    if fault["type"] == "extra_forbidden":
        key = str(path[-1])
        known = known_keys(model, fault["loc"][:-1])
        return FleetError(
            f"unknown key '{key}'{nearest(key, known)}",
            where=document.place(path),
            allowed=", ".join(known) or None,
            next_step="`onecard schema` prints every key with its meaning",
        )
    if fault["type"] == "missing":
        return FleetError(f"key '{path[-1]}' is missing{more}", where=document.place(path[:-1]))
    allowed = fault.get("ctx", {}).get("expected")
    problem = fault["msg"].removeprefix("Value error, ")
    value = fault["input"]
    shown = f", got {value!r}" if isinstance(value, str | int | float | bool) else ""
    hint = ""
    if isinstance(value, str) and allowed:
        hint = nearest(value, [word.strip(" '\"") for word in str(allowed).replace(" or ", ", ").split(",")])
    text = "not an allowed value" if allowed else problem[0].lower() + problem[1:]
    return FleetError(
        f"{text}{shown}{hint}{more}", where=document.place(path), allowed=str(allowed) if allowed else None
    )


def _closeness(document: Document, fault: ErrorDetails) -> tuple[int, bool]:
    """How well a fault fits what was written: a value that fits no branch of a union fails once a branch, and the branch
    that read deepest, or at least did not stumble over the value's kind, is the one that was meant."""
    wrong_kind = fault["type"].endswith("_type") and fault["type"] != "none_required"
    return len(_real_path(document, fault["loc"])), not wrong_kind


def _real_path(document: Document, loc: Sequence[str | int]) -> KeyPath:
    """Drops the union-branch names that pydantic puts into a location, so that only keys of the file remain."""
    path: list[str | int] = []
    value: Any = document.value
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        if inside:
            value = value[part]
            path.append(part)
        elif last and isinstance(value, dict):
            path.append(part)
    return tuple(path)


def known_keys(model: Any, loc: Sequence[str | int]) -> list[str]:
    """The keys allowed at a location below `model`, following fields, dict values, tuples and unions."""
    if get_origin(model) is Annotated:
        return known_keys(get_args(model)[0], loc)
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = model.model_fields
        if not loc:
            return list(fields)
        if loc[0] in fields:
            return known_keys(fields[str(loc[0])].annotation, loc[1:])
        return known_keys(model, loc[1:]) if loc[0] == model.__name__ else []
    origin, arguments = get_origin(model), get_args(model)
    if origin in (Union, UnionType):
        found = [keys for argument in arguments if (keys := known_keys(argument, loc))]
        return found[0] if found else []
    if origin is dict:
        return known_keys(arguments[1], loc[1:])
    if origin in (tuple, list):
        return known_keys(arguments[0], loc[1:])
    return []
