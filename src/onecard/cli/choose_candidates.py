"""From what a person names to candidates: models of the catalog, by id or role, folders, and any model of the hub, each with its facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from onecard.catalog.licences import find_licence, load_licences
from onecard.catalog.models import Model, WrongId, find_model, load_models, select_models, wrong_ids
from onecard.catalog.quantization import Quantization
from onecard.catalog.units import GB
from onecard.cli.model_shapes import about, find_local, find_outside, is_local
from onecard.errors import CatalogError, InputError
from onecard.planner.option import Candidate, Copy, Facts
from onecard.planner.shapes import shape_of_model

ROLE = "role:"
# What the catalog calls the forms of ready copies, by what a fleet file calls them.
FORMS: dict[str, Quantization] = {"bnb-4bit": "nf4", "awq": "awq", "gptq": "gptq", "fp8": "fp8"}


def candidates_of(asked: Sequence[str], folder: Path, input_kind: str, *, offline: bool) -> tuple[Candidate, ...]:
    """Every candidate once, in the order named; nothing named: the catalog's models that serve this input.

    InputErrors for an empty name, a role or a model nobody has, an architecture nobody knows.
    """
    if not asked:
        models = select_models(load_models(), input_kind=input_kind)
        # What only describes pictures cannot hold a conversation.
        return tuple(map(_of_catalog, [m for m in models if input_kind == "image" or m.kind != "captioning"]))
    named = [name.strip() for names in asked for name in names.split(",")]
    if not any(named):
        raise InputError(
            "no candidate is named",
            where="--candidates",
            allowed="ids with commas between them, role:NAME, all",
            next_step="leave it out to choose from the whole catalog",
        )
    found = {one.id: one for name in named if name for one in _named(name, folder, offline)}
    return tuple(found.values())


def check_forms(asked: str | None) -> tuple[Quantization, ...]:
    """Forms as a person lists them; none: those that are sensible. InputError with the nearest for one there is not."""
    from onecard.errors import nearest

    if asked is None:
        return ()
    known: tuple[Quantization, ...] = get_args(Quantization)
    chosen: list[Quantization] = []
    for name in [part.strip() for part in asked.split(",")]:
        form = next((form for form in known if form == name), None)
        if form is None:
            raise InputError(f"no form '{name}'{nearest(name, known)}", where="--forms", allowed=", ".join(known))
        chosen.append(form)
    return tuple(dict.fromkeys(chosen))


def _named(name: str, folder: Path, offline: bool) -> Iterator[Candidate]:
    if name.lower() == "all":
        yield from map(_of_catalog, load_models())
    elif name.lower().startswith(ROLE):
        yield from map(_of_catalog, select_models(load_models(), role=name[len(ROLE) :].strip().lower()))
    elif is_local(name, folder):
        found = find_local(name, folder)
        here = "it is on this disk already"
        yield Candidate(name, Facts(gated=False, gate_source=here, disk_bytes=0, disk_source=here), found.shape)
    else:
        yield _by_id(name, folder, offline)


def _by_id(name: str, folder: Path, offline: bool) -> Candidate:
    try:
        return _of_catalog(find_model(name))
    except CatalogError as unknown:
        wrong = next((wrong for wrong in wrong_ids() if wrong.id.lower() == name.lower()), None)
        return _missing(wrong) if wrong is not None else _outside(name, folder, unknown, offline)


def _missing(wrong: WrongId) -> Candidate:
    story = "was renamed" if wrong.problem == "renamed" else "is no repository"
    return Candidate(wrong.id, Facts(missing=f"{story}: take {' or '.join(wrong.use)}", instead=wrong.use))


def _of_catalog(model: Model) -> Candidate:
    terms = model.licence
    licence = find_licence(terms.key)
    commercial = True if terms.fully_open else None if licence.fully_open else licence.commercial
    copies: dict[str, Copy] = {}
    for ready in sorted(model.prequantized, key=lambda copy: not copy.verified):
        form = FORMS.get(ready.form)
        if form is not None and form not in copies:
            size = round(ready.size_gb * GB) if ready.size_gb else None
            copies[form] = Copy(ready.id, size, ready.verified)
    note = f"; {licence.commercial_note}" if licence.commercial_note and not terms.fully_open else ""
    facts = Facts(
        licence=terms.key,
        fully_open=terms.fully_open,
        commercial=commercial,
        licence_reason=f"{terms.reason}{note}",
        licence_source=terms.source,
        gated=model.access.gated,
        gate_source=model.access.source,
        disk_bytes=model.disk.bytes_of_weights or round(model.disk.size_gb * GB),
        disk_source=model.disk.source,
        disk_caution=model.disk.caution,
        kind=model.kind,
        copies=copies,
    )
    return Candidate(model.id, facts, shape_of_model(model))


def _outside(name: str, folder: Path, unknown: CatalogError, offline: bool) -> Candidate:
    """A model the catalog does not have: by its config, its headers and the hub's record of it."""
    found = find_outside(name, folder, unknown, offline=offline)
    told = about(found)
    said = told.licence.lower() if told and told.licence else None
    licence = next((licence for licence in load_licences() if licence.key == said), None)
    size, source = None, None
    if found.headers is not None:
        size, source = found.headers.total_bytes, "exact, from the headers of its files"
    return Candidate(
        name,
        Facts(
            licence=said,
            fully_open=licence.fully_open if licence else None,
            commercial=licence.commercial if licence else None,
            licence_reason=licence.reason if licence else None,
            licence_source="the hub's record of the repository" if told else None,
            gated=told.gated if told else None,
            gate_source="the hub's record of the repository" if told else None,
            disk_bytes=size,
            disk_source=source,
        ),
        found.shape,
    )
