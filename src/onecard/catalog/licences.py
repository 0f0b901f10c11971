"""Licences of model weights, and whether each counts as fully open: approved by the Open Source Initiative. Not legal advice."""

from __future__ import annotations

from functools import lru_cache

from onecard.catalog.files import Entry, read_entries
from onecard.errors import CatalogError, nearest


class Licence(Entry):
    """A licence as such. What it means for one checkpoint stands with the model, which may bundle weights under another.

    `commercial`: whether it allows commercial use as long as its other terms are kept, which `reason` or `commercial_note` name.
    """

    key: str
    name: str
    fully_open: bool
    reason: str
    commercial: bool | None = None
    commercial_note: str | None = None
    url: str | None = None
    source: str


class _LicenceFile(Entry):
    licences: tuple[Licence, ...]


@lru_cache(maxsize=1)
def load_licences() -> tuple[Licence, ...]:
    """Every licence of the catalog."""
    return read_entries("licences.yaml", _LicenceFile).licences


def find_licence(key: str) -> Licence:
    """The licence with this key. CatalogError with the nearest key otherwise."""
    for licence in load_licences():
        if licence.key == key.lower():
            return licence
    keys = [licence.key for licence in load_licences()]
    raise CatalogError(f"no licence '{key}' in the catalog{nearest(key, keys)}", allowed=", ".join(keys))
