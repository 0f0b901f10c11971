"""Single fields of a quantization_config, each checked: what is missing or absurd is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from onecard.catalog.skips import Names, Rule
from onecard.errors import CatalogError

WHERE = "config.json: quantization_config"
Said = Mapping[str, Any]
T = TypeVar("T", bound=str)

LARGEST = 1 << 24  # no group or block of a real checkpoint is longer


def names(said: Said, keys: tuple[str, ...], rule: Rule) -> tuple[Names, ...]:
    """The list of module names under the first of `keys` that is there, as zero or one Names; None and [] are no list."""
    for key in keys:
        value = said.get(key)
        if value is None or value == []:
            continue
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
            raise CatalogError(f"{value!r} is no list of module names", where=f"{WHERE}.{key}")
        return (Names(tuple(value), rule, f"{WHERE}.{key}"),)
    return ()


def flag(said: Said, *keys: str) -> bool:
    """Whether any of these switches is on; one that is left out is off."""
    for key in keys:
        if not isinstance(said.get(key, False), bool | None):
            raise CatalogError(f"{said[key]!r} is not true or false", where=f"{WHERE}.{key}")
    return any(said.get(key) for key in keys)


def choice(said: Said, key: str, allowed: tuple[T, ...], default: T | None = None, where: str = "") -> T:
    """One of `allowed`, compared without case. CatalogError when it is something else, or missing without a default."""
    value = said.get(key)
    if value is None and default is not None:
        return default
    found = next((one for one in allowed if str(value).lower() == one.lower()), None)
    if found is None:
        problem = "it is missing" if value is None else f"'{value}' is not known"
        raise CatalogError(problem, where=_at(where, key), allowed=", ".join(allowed))
    return found


def whole(said: Said, key: str, default: int) -> int:
    """A whole number above zero."""
    value = said.get(key)
    return default if value is None else _size(value, _at("", key))


def bits_of(said: Said, keys: tuple[str, ...], allowed: tuple[int, ...], where: str = "") -> int:
    """Bits a weight, under the first of `keys` that is there. CatalogError when missing or a width the format does not have."""
    key = next((key for key in keys if said.get(key) is not None), keys[0])
    value = said.get(key)
    if isinstance(value, bool) or value not in allowed:
        problem = "it is missing" if value is None else f"{value!r} is no width of this format"
        raise CatalogError(problem, where=_at(where, key), allowed=", ".join(map(str, allowed)) + " bits")
    return int(value)


def group_size(said: Said, keys: tuple[str, ...], where: str = "") -> int:
    """Weights along the input that share a scale; -1 is a whole row."""
    key = next((key for key in keys if said.get(key) is not None), keys[0])
    value = said.get(key)
    if value is None:
        raise CatalogError(
            "it is missing", where=_at(where, key), allowed="a whole number above zero, or -1 for whole rows"
        )
    return -1 if value == -1 and not isinstance(value, bool) else _size(value, _at(where, key))


def pair(value: Any, key: str) -> tuple[int, int]:
    """Rows and inputs of a block, as [128, 128] or "128x128"."""
    parts = value.split("x") if isinstance(value, str) else value
    if isinstance(value, str) and all(part.isdigit() for part in parts):
        parts = [int(part) for part in parts]
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise CatalogError(
            f"{value!r} is no block of two sizes", where=_at("", key), allowed="two whole numbers, as [128, 128]"
        )
    return _size(parts[0], _at("", key)), _size(parts[1], _at("", key))


def _size(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
        raise CatalogError(f"{value!r} is not a size", where=where, allowed="a whole number above zero")
    return value


def _at(where: str, key: str) -> str:
    return f"{WHERE}.{where}.{key}" if where else f"{WHERE}.{key}"
