"""Reading the catalog's own YAML files into frozen records. A broken file is a CatalogError with the place in it."""

from __future__ import annotations

from importlib.resources import files
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from onecard.errors import CatalogError


class Entry(BaseModel):
    """A record of the catalog: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


AnyEntry = TypeVar("AnyEntry", bound=Entry)

# The loader on top of libyaml is ten times the pure one: the difference between a tenth of a second and a whole one.
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_entries(name: str, entry: type[AnyEntry]) -> AnyEntry:
    """The package's file `name` as one record of type `entry`."""
    return parse_entries(files("onecard.catalog").joinpath(name).read_text(encoding="utf-8"), name, entry)


def parse_entries(text: str, name: str, entry: type[AnyEntry]) -> AnyEntry:
    """YAML text as one record; `name` is the file's, for the error."""
    try:
        return entry.model_validate(yaml.load(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise CatalogError(f"not valid YAML: {error}", where=name, next_step="install onecard again") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(key) for key in fault["loc"])
        raise CatalogError(fault["msg"], where=f"{name}: {place}", next_step="install onecard again") from None
