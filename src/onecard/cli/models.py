"""`onecard models`: the catalog as a table, filtered by what fits, role, licence, context and input; `show` prints every fact."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.text import Text

    from onecard.catalog.fit import Need
    from onecard.catalog.models import Model


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
        _print_table(rows, size, fits)


@models.command()
@click.argument("model_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def show(model_id: str, as_json: bool) -> None:
    """Print every fact about one model, each with its source.

    \b
    Example:
      onecard models show mistralai/Mistral-7B-v0.3
    """
    from onecard.catalog.models import find_model

    model = find_model(model_id)
    if as_json:
        click.echo(json.dumps(_record(model, None), indent=2))
    else:
        print_facts(model.id, _facts(model))


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


_HEADINGS = ("params", "context", "16 bit", "int8", "nf4", "KV/token")
_WIDTHS = (7, 9, 8, 8, 8, 10)


def _print_table(rows: list[tuple[Model, Need | None]], size: int | None, fits: str | None) -> None:
    """Two lines a model: its id with the figures, then roles, input and licence over the whole width."""
    from rich.console import Console
    from rich.text import Text

    from onecard.catalog.units import GIB

    console = Console(highlight=False)
    width = min(max(len(model.id) for model, _ in rows), max(console.width - sum(_WIDTHS), 24))
    headings = "".join(f"{heading:>{cells}}" for heading, cells in zip(_HEADINGS, _WIDTHS, strict=True))
    console.print(Text(f"{'model':<{width}}{headings}", style="bold"), soft_wrap=True)
    for model, fit in rows:
        name = Text(f"{model.id:<{width}}")
        if len(model.id) > width:
            name.append(f"\n{'':<{width}}")
        console.print(name + _figures(model, size), soft_wrap=True)
        console.print(Text(f"  {_about(model, fit)}", style="dim"))
    if size is None:
        said = "GiB of weights in 16 bits, int8 and nf4; KV per token and caller in 16 bits, before any window is full"
    else:
        said = f"GiB one caller needs: weights, KV of 4k tokens and 1 GiB of reserve; {fits} is {size / GIB:.2f} GiB"
    console.print(Text(f"\n{len(rows)} model{'s' if len(rows) != 1 else ''}. {said}."))


def _figures(model: Model, size: int | None) -> Text:
    """The columns right of the id; with a size, what fits is green and the rest dim."""
    from rich.text import Text

    from onecard.catalog.fit import need
    from onecard.catalog.units import GIB, format_bytes, format_count

    cells = [(f"{model.parameters / 1e9:.1f}B", ""), (format_count(model.max_context), "")]
    for form in ("none", "int8", "nf4"):
        needed = need(model, form)
        shown = needed.weights_bytes if size is None else needed.total_bytes
        cells.append((f"{shown / GIB:.2f}", "" if size is None else ("green" if shown <= size else "dim")))
    cells.append((format_bytes(round(model.kv.bytes_per_token())), ""))
    return Text.assemble(*((f"{text:>{width}}", style) for (text, style), width in zip(cells, _WIDTHS, strict=True)))


def _about(model: Model, fit: Need | None) -> str:
    """Fit, roles, input, licence, and what the columns cannot show."""
    from onecard.catalog.fit import forms_of, need
    from onecard.catalog.units import format_bytes

    names = {"none": "16 bit", "published": f"published, {model.dtype}"}
    parts = [f"fits as {names.get(fit.form, fit.form)}: {format_bytes(fit.total_bytes)}"] if fit else []
    parts += [", ".join(model.role_names), "+".join(model.input)]
    parts.append(f"{model.licence.key} ({'open' if model.licence.fully_open else 'not fully open'})")
    if "published" in forms_of(model):
        parts.append(f"published in {model.dtype}: {format_bytes(need(model, 'published').weights_bytes)}")
    if not any(shape.quantized for shape in model.layout.linears):
        parts.append("transformers leaves it in 16 bits")
    return " | ".join(parts)


def print_facts(title: str, facts: list[tuple[str, str, str | None]]) -> None:
    """Two columns: what, and the fact with its source under it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for what, fact, source in facts:
        lines = [Text(fact)] if fact else []
        lines += [Text(f"source: {source}", style="dim")] if source else []
        table.add_row(what, Text("\n").join(lines))
    console.print(table)


def _facts(model: Model) -> list[tuple[str, str, str | None]]:
    """What, the fact in words, its source; in the order a reader decides by."""
    from onecard.catalog.models import common_sources

    common = common_sources()
    judged, counted = common["roles and why"], common["counted and cache"]
    architecture = model.sources.get("architecture")
    facts: list[tuple[str, str, str | None]] = [("why", model.why, judged)]
    for role in model.roles:
        form = f" as {role.quantization}" if role.quantization else ""
        facts.append((f"role {role.name}", f"{role.reason or model.why}{form}", None))
    facts += [
        (
            "kind",
            f"{model.kind}{f' ({model.kind_note})' if model.kind_note else ''}, input {'+'.join(model.input)}",
            architecture,
        ),
        ("licence", _licence(model), model.licence.source),
        ("access", {True: "gated", False: "not gated", None: "not known"}[model.access.gated], model.access.source),
        (
            "released",
            model.released.date + (f" ({model.released.note})" if model.released.note else ""),
            model.released.source,
        ),
        ("parameters", f"{model.parameters:,}: " + ", ".join(f"{k} {v:,}" for k, v in model.counted.items()), counted),
        ("published", _count(model.published.count, model.published.text), model.published.source),
        ("check", _check(model), model.check.source),
        ("context", _context(model), architecture),
        ("KV cache", _cache(model), counted),
        ("in memory", _forms(model), "computed from the config (catalog.quantization)"),
        ("on disk", _disk(model), model.disk.source),
        ("LoRA targets", ", ".join(model.lora_targets), common["lora_targets"]),
    ]
    if model.image:
        tokens = f", {model.image.tokens} tokens an image" if model.image.tokens else ""
        facts.append(
            (
                "images",
                model.image.encoder + tokens + (f"; {model.image.note}" if model.image.note else ""),
                architecture,
            )
        )
    for ready in model.prequantized:
        seen = "" if ready.verified else " (id not verified)"
        gb = f", {ready.size_gb} GB" if ready.size_gb else ""
        facts.append((f"ready {ready.form}", f"{ready.id}{gb}{seen}", None))
    facts += [("note", note, None) for note in model.notes]
    facts += [(name, "", source) for name, source in model.sources.items() if name != "architecture"]
    facts.append(("config", json.dumps(model.config), architecture))
    return facts


def _licence(model: Model) -> str:
    from onecard.catalog.licences import find_licence

    licence = model.licence
    verdict = "fully open" if licence.fully_open else "not fully open"
    return f"{licence.note or find_licence(licence.key).name}; {verdict}: {licence.reason}"


def _count(count: int | None, text: str | None) -> str:
    return f"{count:,}" if count is not None else str(text)


def _check(model: Model) -> str:
    check = model.check
    away = f", {check.difference:+,} from the count" if check.difference else ""
    note = f"; {check.note}" if check.note else ""
    return f"{check.status}: published {_count(check.published, check.text)}{away}{note}"


def _context(model: Model) -> str:
    trained = f", trained for {model.native_context:,}" if model.native_context else ""
    return f"{model.max_context:,} tokens{trained}{f' ({model.context_note})' if model.context_note else ''}"


def _cache(model: Model) -> str:
    from onecard.catalog.units import format_bytes

    cache, parts = model.cache, []
    if cache.full_layers:
        parts.append(f"{cache.full_layers} layers keep {format_bytes(cache.full_bytes_per_token)} a token")
    if cache.sliding_layers:
        parts.append(
            f"{cache.sliding_layers} sliding layers keep {format_bytes(cache.sliding_bytes_per_token)} a token, "
            f"at most {cache.window_tokens:,} tokens ({format_bytes(cache.sliding_cap_bytes)})"
        )
    if cache.fixed_state_bytes:
        parts.append(f"{format_bytes(cache.fixed_state_bytes)} of state per sequence whatever its length")
    return "; ".join(parts) + (f"; {cache.note}" if cache.note else "")


def _forms(model: Model) -> str:
    from onecard.catalog.fit import forms_of, need
    from onecard.catalog.units import format_bytes

    names = {"none": "16 bit", "published": f"as published ({model.dtype})"}
    return ", ".join(f"{names.get(f, f)} {format_bytes(need(model, f).weights_bytes)}" for f in forms_of(model))


def _disk(model: Model) -> str:
    caution = f"; {model.disk.caution}" if model.disk.caution else ""
    return f"{model.disk.size_gb} GB, {model.disk.dtype}{caution}"
