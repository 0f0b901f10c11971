"""`onecard models`: the catalog as a table, filtered by fit, role, licence, context and input; `show` prints every fact of a model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onecard.catalog.fit import Need
    from onecard.catalog.models import Model
    from onecard.errors import CatalogError


@click.group(invoke_without_command=True)
@click.option(
    "--fits", metavar="SIZE|CARD", help="What one caller needs at 4k context must fit: 8GiB, 24GB or rtx-3070."
)
@click.option("--licence", metavar="open|KEY", help="Fully open licences only, or one licence such as mit.")
@click.option("--role", metavar="ROLE", help="primary, code, maths, vision, adapter-base, ...")
@click.option("--context", metavar="TOKENS", help="At least this context: 8192 or 32k.")
@click.option("--input", "input_kind", metavar="KIND", help="text, image, video or audio.")
@click.option("--quantization", metavar="FORM", help="With --fits: none, int8, nf4, ...; left out: the best that fits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.pass_context
def models(
    click_context: click.Context,
    fits: str | None,
    licence: str | None,
    role: str | None,
    context: str | None,
    input_kind: str | None,
    quantization: str | None,
    as_json: bool,
) -> None:
    """List the models of the catalog, or those that pass every filter.

    Sizes are GiB of weights in 16 bits, int8 and nf4 (double quantization). With --fits they are what one caller needs:
    weights, KV cache of 4096 tokens and a reserve of 1 GiB.

    \b
    Example:
      onecard models --fits 8GiB --licence open --role code
      onecard models --fits rtx-3090 --input image
      onecard models show Qwen/Qwen3-8B
    """
    if click_context.invoked_subcommand is not None:
        return
    size = _size(fits, quantization)
    chosen = _chosen(role=role, input_kind=input_kind, licence=licence, context=context)
    rows = _fitting(chosen, size, fits, quantization)
    if as_json:
        click.echo(json.dumps([_record(model, fit) for model, fit in rows], indent=2))
    else:
        from onecard.cli.models_table import print_table

        print_table(rows, size, fits)


@models.command()
@click.argument("model_id", metavar="ID")
@click.option("--revision", metavar="NAME", default="main", help="A branch, tag or commit, for a model on the hub.")
@click.option("--offline", is_flag=True, help="Do not ask the hub about a model outside the catalog.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def show(model_id: str, revision: str, offline: bool, as_json: bool) -> None:
    """Print every fact about one model, each with its source.

    ID is a model of the catalog, a folder with a config.json, a config.json, or any model of the hub: of that the config and the
    headers of the weights are read, and no weights.

    \b
    Example:
      onecard models show mistralai/Mistral-7B-v0.3
      onecard models show org/name-AWQ --json
    """
    from onecard.catalog.models import find_model
    from onecard.cli.facts_output import print_facts
    from onecard.errors import CatalogError

    try:
        model = find_model(model_id)
    except CatalogError as unknown:
        _show_outside(model_id, revision, unknown, offline=offline, as_json=as_json)
        return
    if as_json:
        click.echo(json.dumps(_record(model, None), indent=2))
    else:
        from onecard.cli.models_facts import facts_of

        print_facts(model.id, facts_of(model))


def _show_outside(model_id: str, revision: str, unknown: CatalogError, *, offline: bool, as_json: bool) -> None:
    """A model the catalog does not have: what its config, its headers and the hub's record say."""
    from pathlib import Path

    from onecard.cli.facts_output import print_facts
    from onecard.cli.model_shapes import about, find_local, find_outside, is_local
    from onecard.cli.models_outside import facts_of, record_of

    here = Path()
    if is_local(model_id, here):
        found = find_local(model_id, here)
    else:
        found = find_outside(model_id, here, unknown, offline=offline, revision=revision)
    told = about(found)
    if as_json:
        click.echo(json.dumps(record_of(found, told), indent=2))
    else:
        print_facts(f"{model_id} (not in the catalog)", facts_of(found, told))


def _size(fits: str | None, quantization: str | None) -> int | None:
    """Bytes of a size such as 8GiB, or of the card with this name; None without --fits."""
    from onecard.catalog.fit import check_form
    from onecard.catalog.machine import resolve_card
    from onecard.catalog.units import parse_size
    from onecard.errors import InputError

    if quantization is not None:
        check_form(quantization)
    if fits is None:
        if quantization is not None:
            raise InputError("--quantization says in which form a model must fit", next_step="add --fits 8GiB")
        return None
    try:
        return parse_size(fits)
    except InputError:
        if fits.isdigit() and len(fits) < 4:  # a bare 8 lacks its unit; 3090 is a card
            raise
        return resolve_card(fits).total_bytes


def _chosen(role: str | None, input_kind: str | None, licence: str | None, context: str | None) -> list[Model]:
    """The models that pass these filters, one after the other, so that the one that leaves none is known."""
    from onecard.catalog.models import load_models, select_models
    from onecard.catalog.units import parse_count

    chosen = list(load_models())
    if role is not None:
        chosen = _unless_empty(select_models(chosen, role=role), chosen, f"--role {role}")
    if input_kind is not None:
        chosen = _unless_empty(select_models(chosen, input_kind=input_kind), chosen, f"--input {input_kind}")
    if licence is not None:
        chosen = _unless_empty(select_models(chosen, licence=licence), chosen, f"--licence {licence}")
    if context is not None:
        chosen = _unless_empty(select_models(chosen, context=parse_count(context)), chosen, f"--context {context}")
    return chosen


def _fitting(
    chosen: list[Model], size: int | None, fits: str | None, quantization: str | None
) -> list[tuple[Model, Need | None]]:
    """The models that fit, each with what it needs; without a size, all of them."""
    from onecard.catalog.fit import best_fit

    if size is None:
        return [(model, None) for model in chosen]
    rows = [(model, best_fit(model, size, quantization)) for model in chosen]
    fitting = [(model, fit) for model, fit in rows if fit is not None]
    form = f" --quantization {quantization}" if quantization else ""
    _unless_empty([model for model, _ in fitting], chosen, f"--fits {fits}{form}")
    return [*fitting]


def _unless_empty(left: list[Model], before: list[Model], option: str) -> list[Model]:
    from onecard.errors import Refusal

    if not left:
        of = "the only model" if len(before) == 1 else f"all {len(before)} models"
        raise Refusal(
            f"no model is left: {option} removed {of} that passed so far", next_step="loosen it, or leave it out"
        )
    return left


def _record(model: Model, fit: Need | None) -> dict[str, Any]:
    """The model's facts as data, with the bytes computed from its config."""
    from onecard.catalog.fit import forms_of, need

    record = model.model_dump(mode="json", exclude_none=True)
    record["parameters"] = model.parameters
    record["weights_bytes"] = {form: need(model, form).weights_bytes for form in forms_of(model)}
    record["kv_bytes_per_token"] = {
        "full": model.cache.full_bytes_per_token,
        "sliding": model.cache.sliding_bytes_per_token,
    }
    if fit is not None:
        record["fits"] = {
            "form": fit.form,
            "weights_bytes": fit.weights_bytes,
            "kv_bytes": fit.kv_bytes,
            "reserve_bytes": fit.reserve_bytes,
            "total_bytes": fit.total_bytes,
        }
    return record
