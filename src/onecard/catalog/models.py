"""The models of the catalog: every fact with its source, and the config to plan and build each without a download.

Finding a model by a wrong id answers with the right one: some ids that documents and people use were never repositories.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, get_args

from pydantic import Field

from onecard.catalog.checkpoint import InputKind, Model, Prequantized, RoleName
from onecard.catalog.files import Entry, read_entries
from onecard.catalog.licences import find_licence
from onecard.errors import CatalogError, nearest

__all__ = [
    "LeftOut", "Model", "WrongId", "common_sources", "find_model", "find_prequantized", "left_out", "load_models",
    "select_models", "wrong_ids",
]  # fmt: skip


class WrongId(Entry):
    """An id people write that is no repository (or no longer one), and what to use instead."""

    id: str
    use: tuple[str, ...] = Field(min_length=1)
    problem: Literal["never existed", "renamed"]
    note: str | None = None
    source: str


class LeftOut(Entry):
    """A model that was looked at and is not in the catalog."""

    name: str
    reason: str


class _ModelFile(Entry):
    compiled: str
    common_sources: dict[str, str]
    wrong_ids: tuple[WrongId, ...]
    left_out: tuple[LeftOut, ...]
    models: tuple[Model, ...]


@lru_cache(maxsize=1)
def _file() -> _ModelFile:
    return read_entries("models.yaml", _ModelFile)


def load_models() -> tuple[Model, ...]:
    """Every model, in the catalog's order: for each role the one to take first comes first."""
    return _file().models


def wrong_ids() -> tuple[WrongId, ...]:
    """Ids that are known to be wrong."""
    return _file().wrong_ids


def common_sources() -> dict[str, str]:
    """Sources that hold for every model of the catalog, by what they are about."""
    return _file().common_sources


def left_out() -> tuple[LeftOut, ...]:
    """Models that were considered and left out."""
    return _file().left_out


def find_model(model_id: str) -> Model:
    """The model with this hub id (case does not matter). CatalogError explains a known wrong id, or names the nearest known."""
    asked = model_id.strip().lower()
    for model in load_models():
        if model.id.lower() == asked:
            return model
    raise _unknown(model_id, asked)


def find_prequantized(model_id: str) -> tuple[Model, Prequantized] | None:
    """The model that this repository holds already quantized, and how; None when the catalog knows no such repository."""
    asked = model_id.strip().lower()
    for model in load_models():
        for ready in model.prequantized:
            if ready.id.lower() == asked:
                return model, ready
    return None


def _unknown(model_id: str, asked: str) -> CatalogError:
    """Why there is no such model: a known wrong id, a quantized copy, one left out on purpose, or a slip of the pen."""
    for wrong in wrong_ids():
        if wrong.id.lower() == asked:
            story = "is not a repository" if wrong.problem == "never existed" else "was renamed"
            note = f" ({wrong.note})" if wrong.note else ""
            return CatalogError(f"{wrong.id} {story}{note}", next_step=f"use {' or '.join(wrong.use)}")
    ready = find_prequantized(model_id)
    if ready is not None:
        model, copy = ready
        return CatalogError(
            f"{copy.id} is {model.id} quantized as {copy.form}; the catalog keeps its facts with the original",
            next_step=f"use {model.id}",
        )
    name = asked.rpartition("/")[2]
    for absent in left_out():
        if absent.name.lower() == name:
            return CatalogError(f"{absent.name} is not in the catalog: {absent.reason}")
    ids = [model.id for model in load_models()]
    without_owner = [known for known in ids if known.lower().rpartition("/")[2] == name]
    hint = f" (did you mean '{without_owner[0]}'?)" if without_owner else nearest(model_id, ids)
    return CatalogError(
        f"no model '{model_id}' in the catalog{hint}",
        next_step="`onecard models` lists every model; a local folder with a config.json can be planned too",
    )


def select_models(
    models: Iterable[Model],
    *,
    role: str | None = None,
    licence: str | None = None,
    context: int | None = None,
    input_kind: str | None = None,
) -> list[Model]:
    """Those that play the role, have the licence ("open": fully open, else a licence key), reach the context and take the input.

    A filter left out passes everything. The role's and the input's words are the catalog's; CatalogError for a word it does not use.
    """
    chosen = list(models)
    if role is not None:
        _known_word("role", role, get_args(RoleName))
        chosen = [model for model in chosen if role in model.role_names]
    if licence is not None and licence != "open":
        key = find_licence(licence).key
        chosen = [model for model in chosen if model.licence.key == key]
    elif licence is not None:
        chosen = [model for model in chosen if model.licence.fully_open]
    if context is not None:
        chosen = [model for model in chosen if model.max_context >= context]
    if input_kind is not None:
        _known_word("input", input_kind, get_args(InputKind))
        chosen = [model for model in chosen if input_kind in model.input]
    return chosen


def _known_word(what: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise CatalogError(f"no {what} '{word}' in the catalog{nearest(word, known)}", allowed=", ".join(known))
